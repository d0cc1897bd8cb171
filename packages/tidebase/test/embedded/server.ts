// A server process that has nothing but the embedded database, to be killed in many ways. Tells what happens in lines
// of JSON; `stop` on its standard input, or SIGINT, ends it. It never calls process.exit: that it ends shows that
// nothing is left running.

import { EmbeddedError, startEmbedded } from '../../src/embedded.ts'
import { query } from './query.ts'

const tell = (event: string, more: object = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`)

try {
  const embedded = await startEmbedded({
    dataDir: process.argv[2] ?? '',
    log: (message) => tell('log', { message }),
  })
  const stop = async () => {
    process.stdin.destroy()
    await embedded.stop()
    tell('stopped')
  }
  process.stdin.on('data', (line) => (line.toString().startsWith('crash') ? process.exit(1) : void stop()))
  process.once('SIGINT', async () => {
    const rows = await query(embedded.connection, 'select 1').catch((error: unknown) => String(error))
    tell('interrupted', { rows })
    await stop()
  })
  tell('ready', { connection: embedded.connection, postgres: embedded.pid() })
} catch (error) {
  if (!(error instanceof EmbeddedError)) throw error
  tell('failed', { code: error.code, message: error.message, hint: error.hint })
  process.stdin.destroy()
}
