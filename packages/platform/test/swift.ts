/** Starts OpenStack Swift with its S3 interface, which checks signatures, on free ports and a folder of its own. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('swift-server.py', import.meta.url))
/** Debian's, which sees Debian's packages; another one may come first in the PATH. */
const python = '/usr/bin/python3'

/** A running Swift. */
export interface Swift {
  endpoint: string
  accessKey: string
  secretKey: string
  stop(): Promise<void>
}

/** Tells whether Swift is installed; says loudly what to do when it is not. */
export function hasSwift(): boolean {
  if (spawnSync(python, ['-c', 'import swift.proxy.server, swift.common.middleware.s3api.s3api']).status === 0)
    return true
  const install = 'apt-get install -y --no-install-recommends python3-swift'
  process.stderr.write(`\n!!! SKIPPED: the tests of S3 storage need OpenStack Swift. Install it: ${install}\n\n`)
  return false
}

/** Starts Swift. It ends with this process at the latest. */
export async function startSwift(): Promise<Swift> {
  const folder = await mkdtemp(join(tmpdir(), 'tidepool-swift-'))
  const accessKey = 'test:tester'
  const secretKey = 'a-secret/with+signs='
  const child = spawn(python, [program, folder, accessKey, secretKey], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
  const stop = async () => {
    child.stdin.end()
    await ended
    await rm(folder, { recursive: true, force: true })
  }
  for await (const line of createInterface({ input: child.stdout })) {
    const { port } = JSON.parse(line) as { port: number }
    return { endpoint: `http://127.0.0.1:${port}`, accessKey, secretKey, stop }
  }
  await stop()
  throw new Error('Swift did not start')
}
