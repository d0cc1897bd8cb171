/**
 * `tp.files`: files of the pod and its users, served at `/_files/<name>`; and `static/`, served at `/static/`.
 */
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import type { Backend, FileInfo } from './backend.ts'
import { createLocalFiles } from './local/files.ts'
import type { Pod } from './pod.ts'
import { fileReply, uploadHeaders } from './serve-file.ts'

/** What can be stored: text, bytes or a stream of bytes. */
export type FileData = string | Uint8Array | AsyncIterable<Uint8Array> | Blob

/** File storage of a pod: 50 GB in all. */
export type Files = ReturnType<typeof createFiles>

/** The address of a file on this pod. */
export function fileUrl(name: string): string {
  return `/_files/${name.split('/').map(encodeURIComponent).join('/')}`
}

/** Makes `tp.files` on the backend that `backend` gives. */
export function createFiles(backend: () => Backend) {
  return {
    /**
     * Stores a file under a name like `photos/cat.jpg`; it appears when it is complete, replacing an earlier one.
     * @returns `{name, size, contentType, modifiedAt, etag}`
     * @throws TpError `bad_key`, `quota_exceeded` (50 GB), `storage`
     * @example await tp.files.write('report.csv', 'a,b\n1,2\n')
     */
    write(name: string, data: FileData): Promise<FileInfo> {
      const bytes = typeof data === 'string' ? Buffer.from(data) : data instanceof Blob ? data.stream() : data
      return backend().files.write(name, bytes)
    },
    /**
     * The whole file, or undefined when there is none.
     * @example const csv = (await tp.files.read('report.csv'))?.toString()
     */
    async read(name: string): Promise<Buffer | undefined> {
      const found = await backend().files.read(name)
      return found && (await buffer(found.body))
    },
    /**
     * The file as a stream, for large ones; undefined when there is none.
     * @example const video = await tp.files.stream('talk.mp4')
     */
    async stream(name: string): Promise<Readable | undefined> {
      return (await backend().files.read(name))?.body
    },
    /**
     * Files whose names start with `prefix`, in order, up to `limit` (default 1,000) after the name `after`.
     * @example const photos = await tp.files.list('photos/')
     */
    list(prefix = '', options: { after?: string; limit?: number } = {}): Promise<FileInfo[]> {
      return backend().files.list({ prefix, ...options })
    },
    /**
     * Removes a file.
     * @returns whether there was one
     * @example await tp.files.delete('report.csv')
     */
    delete(name: string): Promise<boolean> {
      return backend().files.delete(name)
    },
    /**
     * Where the file is served.
     * @example tp.html`<img src="${tp.files.url('photos/cat.jpg')}">`
     */
    url: fileUrl,
  }
}

/** Serves `/_files/` and `/static/`. */
export function filesFeature(pod: Pod): void {
  const { backend, dir } = pod.setup()
  const sources = createLocalFiles(join(dir, 'static'), tmpdir())
  pod.mount('/_files/:name{.+}', {}, (req, { name = '' }) => fileReply(req, backend.files, name, uploadHeaders))
  pod.mount('/static/:name{.+}', {}, (req, { name = '' }) => fileReply(req, sources, name, () => ({})))
}
