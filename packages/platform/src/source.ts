// Sources of pods: a list of files, each by the hash of its content. What the platform has already is not sent again.
// Links cannot be said in such a list, so none can lead out of a release.
import { checkFileName } from 'tidepool/kit'
import { z } from 'zod'
import { type Issue, messageOf, PlatformError } from './errors.ts'

/** A file of a source: path, SHA-256 of its content in hex, bytes. */
export type SourceFile = [path: string, sha256: string, size: number]

export const sourceFile = z.tuple([z.string().min(1).max(512), z.string().regex(/^[0-9a-f]{64}$/), z.int().min(0)])

/** Limits of a source. */
export const sourceLimits = { files: 20_000, fileBytes: 50 * 1024 * 1024, totalBytes: 500 * 1024 * 1024 }

/** Where the content of a pod's file lies. */
export const blobKey = (pod: string, sha256: string) => `pods/${pod}/source/${sha256}`

const ours = new Set(['tp_data', 'node_modules', '.git'])

/**
 * Refuses lists that could not be laid out as files everywhere.
 * @throws PlatformError `invalid` with one issue a bad path, `too_large`
 */
export function checkSource(files: readonly SourceFile[]): void {
  if (files.length > sourceLimits.files)
    throw new PlatformError(
      'too_large',
      `The source has ${files.length} files; a pod has at most ${sourceLimits.files}.`,
      {
        hint: 'List what is not needed in .tpignore.',
      },
    )
  const total = files.reduce((sum, [, , size]) => sum + size, 0)
  if (total > sourceLimits.totalBytes)
    throw new PlatformError(
      'too_large',
      `The source has ${total} bytes; a pod has at most ${sourceLimits.totalBytes}.`,
      {
        hint: 'List what is not needed in .tpignore; put large files into tp.files.',
      },
    )
  const issues: Issue[] = []
  const seen = new Map<string, string>()
  const folders = new Map<string, string>()
  const sizes = new Map<string, number>()
  for (const [at, [path, sha256, size]] of files.entries()) {
    const bad = (message: string) => issues.push({ path: ['files', at], message: `${JSON.stringify(path)} ${message}` })
    try {
      checkFileName(path)
    } catch (error) {
      bad(messageOf(error))
      continue
    }
    if (size > sourceLimits.fileBytes) bad(`has ${size} bytes; a file has at most ${sourceLimits.fileBytes}`)
    const segments = path.split('/')
    if (ours.has(segments[0] ?? '')) bad('lies in a folder that is the platform’s own')
    // One content has one size: with two of them a small one could be said for a large one.
    if (sizes.has(sha256) && sizes.get(sha256) !== size) bad('has another size than the same content elsewhere')
    sizes.set(sha256, size)
    // Disks that do not tell cases apart would keep one of two.
    const folded = path.normalize('NFC').toLowerCase()
    const twin = seen.get(folded)
    if (twin !== undefined) bad(`and ${JSON.stringify(twin)} differ in case only`)
    seen.set(folded, path)
    for (let depth = 1; depth < segments.length; depth++)
      folders.set(segments.slice(0, depth).join('/').normalize('NFC').toLowerCase(), path)
  }
  for (const [folded, path] of seen) {
    const inside = folders.get(folded)
    if (inside)
      issues.push({
        path: ['files'],
        message: `${JSON.stringify(path)} is a file and the folder of ${JSON.stringify(inside)}`,
      })
  }
  if (issues.length > 0)
    throw new PlatformError('invalid', 'Some files cannot be part of a pod.', { issues: issues.slice(0, 20) })
}
