/**
 * `tidepool eject`: the runtime's own source, copied into the project, to read and to change. What runs the app uses
 * the copy from then on; deleting it undoes that.
 */
import { existsSync } from 'node:fs'
import { cp, readdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ejectedFolder, findMain } from '../src/dev/build.ts'
import { TpError } from '../src/errors.ts'
import type { Output } from './output.ts'

/** The runtime's source, seen from dist/. */
const source = fileURLToPath(new URL('../src', import.meta.url))

/**
 * Copies the runtime into the pod's folder.
 * @throws TpError `no_main`, `folder_exists` (it is there already)
 */
export async function eject(dir: string, output: Output): Promise<void> {
  const pod = resolve(dir)
  findMain(pod)
  const copy = join(pod, ejectedFolder)
  if (existsSync(copy))
    throw new TpError('folder_exists', `${copy} is there already`, {
      hint: 'Delete it to go back to the installed runtime, then eject again for a fresh copy.',
    })
  // The dev server is no part of what an app runs on.
  await cp(source, copy, { recursive: true, filter: (path) => path !== join(source, 'dev') })
  const files = (await readdir(copy, { recursive: true })).filter((file) => file.endsWith('.ts')).sort()
  output.result(
    { dir: copy, files, undo: `rm -r ${ejectedFolder}` },
    `Copied the runtime (${files.length} files) to ${copy}.\n  tidepool dev uses it from now on; tp.ts is where to begin.\n  rm -r ${ejectedFolder} undoes it.`,
  )
}
