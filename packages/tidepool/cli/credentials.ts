/**
 * Who this machine is to which platform: `~/.config/tidepool/credentials.json`, readable by its owner only.
 * TIDEPOOL_URL and TIDEPOOL_KEY overrule it.
 */
import { chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { TpError } from '../src/errors.ts'

interface Saved {
  /** The platform that is used unless another is named. */
  current?: string
  keys: Record<string, { key: string; email?: string }>
}

/** Where a platform on this machine listens unless told otherwise. */
const defaultUrl = 'http://localhost:8080'

const file = () => join(process.env.XDG_CONFIG_HOME || join(homedir(), '.config'), 'tidepool', 'credentials.json')

async function read(): Promise<Saved> {
  let text: string
  try {
    text = await readFile(file(), 'utf8')
  } catch {
    return { keys: {} }
  }
  try {
    const saved: Saved = JSON.parse(text)
    return { ...saved, keys: saved.keys ?? {} }
  } catch (cause) {
    throw new TpError('bad_data_file', `${file()} is not valid JSON`, {
      cause,
      hint: 'Mend or delete it, then log in again.',
    })
  }
}

function normal(url: string): string {
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
    throw new TpError('usage', `"${url}" is not the address of a platform`, { hint: 'Use --url https://…' })
  return url.replace(/\/+$/, '')
}

/** The platform to talk to and the key for it, if there is one. @param given by --url */
export async function findCredentials(
  given?: string,
): Promise<{ url: string; key: string | undefined; email?: string | undefined }> {
  const saved = await read()
  const url = normal(given ?? process.env.TIDEPOOL_URL ?? saved.current ?? defaultUrl)
  const known = saved.keys[url]
  return { url, key: process.env.TIDEPOOL_KEY || known?.key, email: known?.email }
}

/** Remembers a key; its platform is used from now on. */
export async function saveCredentials(url: string, key: string, email?: string): Promise<void> {
  const saved = await read()
  const path = file()
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const next: Saved = { ...saved, current: url, keys: { ...saved.keys, [url]: { key, ...(email && { email }) } } }
  await writeFile(`${path}.new`, `${JSON.stringify(next, null, 2)}\n`, { mode: 0o600 })
  await chmod(`${path}.new`, 0o600)
  await rename(`${path}.new`, path)
}
