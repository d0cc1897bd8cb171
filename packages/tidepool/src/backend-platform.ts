/**
 * The backend of a pod on the platform: the same four operations, over the platform's data API. All replicas of a pod
 * share what is behind it, and nothing is kept here, so a replica may die at any moment.
 *
 * Reads of one tick travel together. Writes carry an id: one that was repeated because its answer was lost has
 * happened once.
 */
import { randomUUID } from 'node:crypto'
import type { Backend, Entry, FileInfo, FileStore, Json, Mailbox, Outcome, SentMail, Space, Write } from './backend.ts'
import { messageOf, TpError } from './errors.ts'
import { checkFileName } from './local/files.ts'
import { type PlatformSocket, refusal } from './platform/socket.ts'

type Found = { key: string; value: Json; version: number; expiresIn?: number } | null

/** What the platform tells a pod at its start. */
export interface PodWelcome {
  secrets: Record<string, string>
}

/** A write as JSON cannot say what is wrong with a value; this can. @throws TpError `bad_value` */
function encode(ops: readonly Write[]): unknown[] {
  return ops.map((op) => {
    if (op.op !== 'set') return op
    let json: string | undefined
    try {
      json = JSON.stringify(op.value)
    } catch (cause) {
      throw new TpError('bad_value', 'The value is not JSON: it contains itself or a BigInt', { cause })
    }
    if (json === undefined) throw new TpError('bad_value', `A ${typeof op.value} cannot be stored`)
    return { ...op, value: undefined, json }
  })
}

/**
 * Opens the storage of the pod that the socket's token belongs to.
 * @throws TpError `unavailable`, `unauthorized`
 */
export async function openPlatformBackend(platform: PlatformSocket): Promise<Backend> {
  const { secrets } = await platform.call<PodWelcome>('/data/welcome')
  let closed = false
  let reads: { space: Space; key: string; resolve: (found: Found) => void; reject: (error: unknown) => void }[] = []

  function open(): void {
    if (closed) throw new TpError('unavailable', 'The app is stopping')
  }

  async function flush(): Promise<void> {
    const batch = reads
    reads = []
    try {
      const { found } = await platform.call<{ found: Found[] }>('/data/read', {
        reads: batch.map(({ space, key }) => [space, key]),
      })
      for (const [at, { resolve }] of batch.entries()) resolve(found[at] ?? null)
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
  }

  function read(space: Space, key: string): Promise<Found> {
    return new Promise((resolve, reject) => {
      if (reads.push({ space, key, resolve, reject }) === 1) setImmediate(() => void flush())
    })
  }

  return {
    secrets: Object.freeze(secrets),
    files: createPlatformFiles(platform),
    mail: createPlatformMail(platform),
    async read<S extends Space>(space: S, key: string) {
      open()
      const found = await read(space, key)
      // The platform stores of a space what this runtime wrote there.
      return found ? (found as Entry<S>) : undefined
    },
    async scan<S extends Space>(space: S, options = {}) {
      open()
      const { entries } = await platform.call<{ entries: Entry<S>[] }>('/data/scan', { space, ...options })
      return entries
    },
    async keys(space, options = {}) {
      open()
      const { limit, ...rest } = options
      const known = limit === undefined || limit === Number.POSITIVE_INFINITY ? rest : { ...rest, limit }
      return (await platform.call<{ keys: string[] }>('/data/keys', { space, ...known })).keys
    },
    async count(space, prefix = '') {
      open()
      return (await platform.call<{ count: number }>('/data/count', { space, prefix })).count
    },
    async write(ops) {
      open()
      return platform.call<Outcome>('/data/write', { id: randomUUID(), ops: encode(ops) })
    },
    async close() {
      closed = true
      platform.close()
    },
  }
}

const fileUrl = (name: string) => `/data/files/${checkFileName(name).split('/').map(encodeURIComponent).join('/')}`

function createPlatformFiles(platform: PlatformSocket): FileStore {
  async function stat(name: string): Promise<FileInfo | undefined> {
    return (
      (await platform.call<{ file: FileInfo | null }>('/data/file', { name: checkFileName(name) })).file ?? undefined
    )
  }
  return {
    stat,
    async write(name, data, { maxBytes, signal } = {}) {
      const answer = await platform.send(fileUrl(name), {
        method: 'PUT',
        headers: { ...(maxBytes !== undefined && { 'x-tidepool-max-bytes': String(maxBytes) }) },
        body: data instanceof Uint8Array ? once(data) : data,
        signal,
      })
      if (answer.statusCode !== 200) throw await refusal(answer)
      let body = ''
      for await (const chunk of answer.setEncoding('utf8')) body += chunk
      const { file }: { file: FileInfo } = JSON.parse(body)
      return file
    },
    async read(name, range) {
      const headers = range && { range: `bytes=${range.start}-${range.end}` }
      const answer = await platform.send(fileUrl(name), { ...(headers && { headers }) })
      if (answer.statusCode === 404) {
        answer.resume()
        return undefined
      }
      if (answer.statusCode !== 200 && answer.statusCode !== 206) throw await refusal(answer)
      try {
        const info: FileInfo = JSON.parse(decodeURIComponent(String(answer.headers['x-tidepool-file'])))
        return { info, body: answer }
      } catch (cause) {
        answer.destroy()
        throw new TpError('storage', `The platform answered without the file's properties: ${messageOf(cause)}`, {
          cause,
        })
      }
    },
    async list(options = {}) {
      return (await platform.call<{ files: FileInfo[] }>('/data/files', options)).files
    },
    async delete(name) {
      const path = fileUrl(name)
      return (await platform.call<{ existed: boolean }>(path, undefined, { method: 'DELETE' })).existed
    },
  }
}

async function* once(data: Uint8Array): AsyncGenerator<Uint8Array> {
  yield data
}

function createPlatformMail(platform: PlatformSocket): Mailbox {
  return {
    send: async (mail) => (await platform.call<{ mail: SentMail }>('/data/mail', { id: randomUUID(), mail })).mail,
    list: async ({ limit = 100, before } = {}) =>
      (await platform.call<{ mails: SentMail[] }>('/data/mails', { limit, ...(before && { before }) })).mails,
    get: async (id) => (await platform.call<{ mail: SentMail | null }>('/data/mails', { id })).mail ?? undefined,
  }
}
