/**
 * `tidepool init`: a new pod from a template.
 */

import { existsSync } from 'node:fs'
import { cp, mkdir, readdir, rename, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { TpError } from '../src/errors.ts'
import type { Output } from './output.ts'

/** Where the templates lie, seen from dist/; `_common` is in all of them. */
const templates = fileURLToPath(new URL('../templates', import.meta.url))

/** Names of the templates. */
export async function templateNames(): Promise<string[]> {
  return (await readdir(templates, { withFileTypes: true }))
    .filter((each) => each.isDirectory() && !each.name.startsWith('_'))
    .map((each) => each.name)
}

/**
 * Makes a pod in a folder.
 * @param dir absolute
 * @throws TpError `usage` for an unknown template, `folder_exists` unless the folder is empty or missing
 */
export async function makePod(dir: string, template: string): Promise<void> {
  const names = await templateNames()
  if (!names.includes(template))
    throw new TpError('usage', `There is no template "${template}"`, { hint: `Use one of ${names.join(', ')}.` })
  const content = existsSync(dir) ? (await readdir(dir)).filter((each) => each !== '.git') : []
  if (content.length > 0) throw new TpError('folder_exists', `${dir} is not empty`)
  await mkdir(dir, { recursive: true })
  await cp(join(templates, '_common'), dir, { recursive: true })
  await cp(join(templates, template), dir, { recursive: true })
  // A file of that name in a package would change what is published of it.
  await rename(join(dir, 'gitignore'), join(dir, '.gitignore'))
  const manifest = {
    name: basename(dir)
      .toLowerCase()
      .replace(/[^a-z0-9-]+/g, '-'),
    private: true,
    type: 'module',
  }
  await writeFile(join(dir, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
}

/**
 * Makes a pod in the folder `name` and says what to do next.
 * @throws TpError `usage` for an unknown template, `folder_exists`
 */
export async function init(name: string, options: { template?: string }, output: Output): Promise<void> {
  const dir = resolve(name)
  const template = options.template ?? 'hello'
  await makePod(dir, template)
  const next = [`cd ${name}`, 'tidepool dev']
  output.result(
    { dir, template, files: (await readdir(dir)).sort(), next },
    `Made ${basename(dir)} from the template "${template}". Next:\n  ${next.join('\n  ')}`,
  )
}
