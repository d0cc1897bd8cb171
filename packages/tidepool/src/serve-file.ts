/**
 * Answers with a stored file: ranges, ETags, and headers under which nothing uploaded can run on the app's origin.
 */
import type { FileInfo, FileStore } from './backend.ts'
import { TpError } from './errors.ts'
import { type Reply, reply } from './reply.ts'
import type { Request } from './request.ts'

/** Shown in the browser; everything else is downloaded. */
const inline = /^(image|audio|video)\/|^text\/plain$|^application\/pdf$/

function rangeOf(header: string | undefined, size: number): { start: number; end: number } | 'invalid' | undefined {
  const [, first = '', last = ''] = /^bytes=(\d*)-(\d*)$/.exec(header ?? '') ?? []
  if (first === '' && last === '') return undefined
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first)
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1)
  return start > end || start >= size ? 'invalid' : { start, end }
}

function typeHeader(type: string): string {
  return type.startsWith('text/') || type === 'application/json' ? `${type}; charset=utf-8` : type
}

/** Headers for what users uploaded: SVG and HTML may be looked at in pages of the app, but run nothing there. */
export function uploadHeaders(info: FileInfo): Record<string, string> {
  const filename = encodeURIComponent(info.name.split('/').at(-1) ?? 'file')
  return {
    'content-disposition': `${inline.test(info.contentType) ? 'inline' : 'attachment'}; filename*=UTF-8''${filename}`,
    // Chrome shows no PDF under a sandbox; a PDF has no access to the page's origin anyway.
    ...(info.contentType !== 'application/pdf' && {
      'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    }),
  }
}

/**
 * The file as an answer: 200, 206 for a range, 304 for a known ETag, 416.
 * @throws TpError `not_found`
 */
export async function fileReply(
  req: Request,
  files: FileStore,
  name: string,
  headersOf: (info: FileInfo) => Record<string, string>,
): Promise<Reply> {
  const info = await files.stat(name).catch((error: unknown) => {
    if (error instanceof TpError && error.code === 'bad_key') return undefined
    throw error
  })
  if (!info) throw new TpError('not_found', `There is no file at ${req.path}`)
  const common = {
    ...headersOf(info),
    'content-type': typeHeader(info.contentType),
    'last-modified': new Date(info.modifiedAt).toUTCString(),
    'accept-ranges': 'bytes',
    'cache-control': 'no-cache',
    etag: info.etag,
  }
  if (req.headers['if-none-match'] === info.etag) return reply(null, { status: 304, headers: common })
  const condition = req.headers['if-range']
  const range = condition === undefined || condition === info.etag ? rangeOf(req.headers.range, info.size) : undefined
  if (range === 'invalid')
    return reply(null, { status: 416, headers: { ...common, 'content-range': `bytes */${info.size}` } })
  const length = range ? range.end - range.start + 1 : info.size
  const headers = {
    ...common,
    'content-length': length,
    ...(range && { 'content-range': `bytes ${range.start}-${range.end}/${info.size}` }),
  }
  const status = range ? 206 : 200
  if (req.method === 'HEAD' || length === 0) return reply(new Uint8Array(), { status, headers })
  const found = await files.read(name, range)
  if (!found) throw new TpError('not_found', `There is no file at ${req.path}`)
  return reply(found.body, { status, headers })
}
