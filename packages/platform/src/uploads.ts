// Bytes in and out of the storage for the control plane.
import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { PlatformError } from './errors.ts'
import { forEach } from './lanes.ts'
import { blobKey, type SourceFile } from './source.ts'
import type { Storage, StoredObject } from './storage.ts'

/** Makes the operations on `storage`. */
export function createUploads(storage: Storage) {
  return {
    /** Hashes of the files whose content is not there. */
    async missing(pod: string, files: readonly SourceFile[]): Promise<string[]> {
      const hashes = [...new Set(files.map(([, sha256]) => sha256))]
      const sizes = new Map(files.map(([, sha256, size]) => [sha256, size]))
      const missing: string[] = []
      await forEach(hashes, 16, async (sha256) => {
        const found = await storage.stat(blobKey(pod, sha256))
        if (!found || found.size !== sizes.get(sha256)) missing.push(sha256)
      })
      return missing.sort()
    },
    /** Stores what comes, if it is what its name says. @throws PlatformError `invalid`, `too_large` */
    async store(key: string, sha256: string, req: IncomingMessage, maxBytes: number): Promise<StoredObject> {
      const hash = createHash('sha256')
      async function* checked(): AsyncGenerator<Uint8Array> {
        for await (const chunk of gently(req)) {
          hash.update(chunk)
          yield chunk
        }
        if (hash.digest('hex') !== sha256)
          throw new PlatformError('invalid', 'The bytes are not those whose SHA-256 the address names.', {
            hint: 'The file changed or was cut off on the way: read it again and repeat.',
          })
      }
      try {
        return await storage.put(key, checked(), { maxBytes })
      } catch (error) {
        if (error instanceof Error && 'code' in error && error.code === 'too_large')
          throw new PlatformError('too_large', `A file has at most ${maxBytes} bytes.`)
        throw error
      }
    },
    /** Removes contents of files that no deployment of `keep` names. Uploads on their way into one are younger than an hour. */
    async collect(pod: string, keep: ReadonlySet<string>): Promise<void> {
      let after: string | undefined
      for (;;) {
        const objects = await storage.list(blobKey(pod, ''), { ...(after && { after }), limit: 1000 })
        for (const { key, modifiedAt } of objects)
          if (!keep.has(key.slice(key.lastIndexOf('/') + 1)) && modifiedAt < Date.now() - 3_600_000)
            await storage.delete(key)
        after = objects.at(-1)?.key
        if (objects.length < 1000 || !after) return
      }
    },
    async send({ info, body }: { info: StoredObject; body: Readable }, res: ServerResponse): Promise<void> {
      res.writeHead(200, {
        'content-type': 'application/octet-stream',
        'content-length': info.size,
        'content-disposition': 'attachment',
        'x-content-type-options': 'nosniff',
      })
      await pipeline(body, res)
    },
  }
}

export type Uploads = ReturnType<typeof createUploads>

/** The chunks of a request whose reading may be broken off without cutting the connection: the refusal must arrive. */
export function gently(data: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  return data instanceof Readable ? data.iterator({ destroyOnReturn: false }) : data
}
