// The platform's master key: seals what must be readable again (pods' secrets) and derives what must be recognised
// (pods' tokens). It lies beside the data folder's other files with mode 0600, or comes from TIDEPOOL_MASTER_KEY; the
// database alone opens nothing.
import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto'
import { mkdir, open, readFile } from 'node:fs/promises'
import { dirname } from 'node:path'

const format = 1

/** Reads the master key, making it on the first start. @param file used unless `given` (64 hex digits) is there */
export async function readMasterKey(file: string, given?: string): Promise<Buffer> {
  if (given !== undefined) {
    if (!/^[0-9a-f]{64}$/i.test(given))
      throw new Error('TIDEPOOL_MASTER_KEY must be 64 hex digits: openssl rand -hex 32')
    return Buffer.from(given, 'hex')
  }
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  try {
    const handle = await open(file, 'wx', 0o600)
    await handle.writeFile(`${randomBytes(32).toString('hex')}\n`)
    await handle.sync()
    await handle.close()
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
  }
  const text = (await readFile(file, 'utf8')).trim()
  if (!/^[0-9a-f]{64}$/.test(text))
    throw new Error(`${file} is damaged: restore it from a backup; secrets are sealed with it`)
  return Buffer.from(text, 'hex')
}

/** Makes the functions that need the key. */
export function createMaster(key: Buffer) {
  const derive = (purpose: string) => Buffer.from(hkdfSync('sha256', key, '', purpose, 32))
  const sealing = derive('seal')
  const naming = derive('tokens')

  function mac(text: string): string {
    return createHmac('sha256', naming).update(text).digest('base64url')
  }

  return {
    /** Encrypts (AES-256-GCM), bound to `place`: what is moved to another row cannot be opened there. */
    seal(place: string, text: string): Buffer {
      const nonce = randomBytes(12)
      const cipher = createCipheriv('aes-256-gcm', sealing, nonce).setAAD(Buffer.from(place))
      const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
      return Buffer.concat([Buffer.from([format]), nonce, cipher.getAuthTag(), body])
    },
    /** @throws Error when it was changed, moved, or sealed with another key */
    open(place: string, sealed: Buffer): string {
      const cipher = createDecipheriv('aes-256-gcm', sealing, sealed.subarray(1, 13)).setAAD(Buffer.from(place))
      cipher.setAuthTag(sealed.subarray(13, 29))
      return Buffer.concat([cipher.update(sealed.subarray(29)), cipher.final()]).toString('utf8')
    },
    /** A secret that only this platform can make again from `text`. */
    mac,
    /** The token of a pod's processes of one deployment: `<pod>.<deployment>.<mac>`. */
    podToken: (pod: string, deployment: string) => `${pod}.${deployment}.${mac(`pod ${pod} ${deployment}`)}`,
    /** Whose token it is, or undefined. */
    readPodToken(token: string): { pod: string; deployment: string } | undefined {
      const [pod = '', deployment = ''] = token.split('.')
      const expected = Buffer.from(`${pod}.${deployment}.${mac(`pod ${pod} ${deployment}`)}`)
      const presented = Buffer.from(token)
      if (presented.length !== expected.length || !timingSafeEqual(presented, expected)) return undefined
      return { pod, deployment }
    },
  }
}

export type Master = ReturnType<typeof createMaster>
