// Files of pods: rows in the database, bytes in object storage under names that are never used twice. So a file changes
// in one moment, and a snapshot is a copy of the rows.
import { lookup } from 'mrmime'
import { checkFileName, type FileInfo, maxFilesSize, TpError } from 'tidepool/kit'
import type { Database } from './db.ts'
import { PlatformError } from './errors.ts'
import { newSecret } from './ids.ts'
import type { Storage } from './storage.ts'
import { gently } from './uploads.ts'

interface Row {
  name: string
  object: string
  size: number
  content_type: string
  etag: string
  modified_at: number
}

const columns = 'name, object, size, content_type, etag, modified_at'
const info = ({ name, size, content_type, etag, modified_at }: Row): FileInfo => ({
  name,
  size,
  contentType: content_type,
  modifiedAt: modified_at,
  etag,
})

/** Makes the file store of all pods. */
export function createPodFiles(db: Database, storage: Storage) {
  async function find(pod: string, name: string): Promise<Row | undefined> {
    const [row] = await db.query<Row>(`select ${columns} from platform.files where pod = $1 and name = $2`, [
      pod,
      checkFileName(name),
    ])
    return row
  }

  return {
    /**
     * Stores a file, all or nothing.
     * @param maxBytes stop with `too_large` beyond this
     * @throws TpError `bad_key`, `too_large`, `quota_exceeded`
     */
    async write(
      pod: string,
      name: string,
      data: AsyncIterable<Uint8Array>,
      maxBytes = maxFilesSize,
    ): Promise<FileInfo> {
      checkFileName(name)
      const [sum] = await db.query<{ used: number }>(
        'select coalesce(sum(size), 0) as used from platform.files where pod = $1',
        [pod],
      )
      const free = maxFilesSize - (sum?.used ?? 0)
      const object = `pods/${pod}/files/${newSecret()}`
      let stored: Awaited<ReturnType<Storage['put']>>
      try {
        stored = await storage.put(object, gently(data), { maxBytes: Math.min(free, maxBytes) })
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'too_large')) throw error
        throw free < maxBytes
          ? new TpError('quota_exceeded', 'tp.files is full: it holds 50 GB')
          : new TpError('too_large', `The file is larger than ${maxBytes} bytes`)
      }
      const [row] = await db.query<Row>(
        `insert into platform.files (pod, ${columns}) values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (pod, name) do update set object = excluded.object, size = excluded.size,
           content_type = excluded.content_type, etag = excluded.etag, modified_at = excluded.modified_at
         returning ${columns}`,
        [
          pod,
          name,
          object,
          stored.size,
          lookup(name) ?? 'application/octet-stream',
          `"${object.slice(-22)}"`,
          Date.now(),
        ],
      )
      if (!row) throw new PlatformError('internal')
      return info(row)
    },
    async stat(pod: string, name: string): Promise<FileInfo | undefined> {
      const row = await find(pod, name)
      return row && info(row)
    },
    async read(pod: string, name: string, range?: { start: number; end: number }) {
      const row = await find(pod, name)
      if (!row) return undefined
      const found = await storage.get(row.object, range)
      if (!found) throw new PlatformError('unavailable', `The bytes of ${name} are not in the storage.`)
      return { info: info(row), body: found.body }
    },
    /** In the order of names. */
    async list(
      pod: string,
      { prefix = '', after = '', limit = 1000 }: { prefix?: string; after?: string; limit?: number },
    ) {
      const rows = await db.query<Row>(
        `select ${columns} from platform.files
          where pod = $1 and starts_with(name, $2) and name > $3 order by name limit $4`,
        [pod, prefix, after, Math.max(0, Math.trunc(limit))],
      )
      return rows.map(info)
    },
    /** Whether there was one. Its bytes go when no snapshot needs them. */
    async delete(pod: string, name: string): Promise<boolean> {
      const rows = await db.query('delete from platform.files where pod = $1 and name = $2 returning name', [
        pod,
        checkFileName(name),
      ])
      return rows.length > 0
    },
    /** Removes objects of a pod that neither its files nor a snapshot name. Files being written are younger than an hour. */
    async collect(pod: string): Promise<number> {
      const used = await db.query<{ object: string }>(
        `select object from platform.files where pod = $1 union
         select f.object from platform.snapshot_files f join platform.snapshots s on s.id = f.snapshot where s.pod = $1`,
        [pod],
      )
      const keep = new Set(used.map(({ object }) => object))
      let removed = 0
      let after: string | undefined
      for (;;) {
        const objects = await storage.list(`pods/${pod}/files/`, { ...(after && { after }), limit: 1000 })
        for (const { key, modifiedAt } of objects)
          if (!keep.has(key) && modifiedAt < Date.now() - 3_600_000 && (await storage.delete(key))) removed += 1
        after = objects.at(-1)?.key
        if (objects.length < 1000 || !after) return removed
      }
    },
  }
}

export type PodFiles = ReturnType<typeof createPodFiles>
