// The files that the platform's pages load: the style sheets, one script, one icon. Their addresses carry a hash of their
// bytes, so that browsers may keep them.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('../static', import.meta.url))
const types = {
  'tidepool.css': 'text/css; charset=utf-8',
  'blocks.css': 'text/css; charset=utf-8',
  'pages.css': 'text/css; charset=utf-8',
  'live.js': 'text/javascript; charset=utf-8',
  'icon.svg': 'image/svg+xml',
}
export type AssetName = keyof typeof types
const isAsset = (name: string): name is AssetName => Object.hasOwn(types, name)

const read = new Map<AssetName, { bytes: Buffer; version: string }>()

function load(name: AssetName) {
  const known = read.get(name)
  if (known) return known
  const bytes = readFileSync(join(folder, name))
  const fresh = { bytes, version: createHash('sha256').update(bytes).digest('hex').slice(0, 12) }
  read.set(name, fresh)
  return fresh
}

/** The address of a file, good for as long as its bytes are the same. */
export const assetPath = (name: AssetName): string => `/static/${name}?v=${load(name).version}`

/** Sends a file. @returns whether there is one of that name */
export function sendAsset(res: ServerResponse, name: string): boolean {
  if (!isAsset(name)) return false
  const { bytes } = load(name)
  res.writeHead(200, {
    'content-type': types[name],
    'content-length': bytes.length,
    'cache-control': 'public, max-age=31536000, immutable',
    'cross-origin-resource-policy': 'same-origin',
    'x-content-type-options': 'nosniff',
  })
  res.end(bytes)
  return true
}
