/**
 * The pod's log: readable lines while developing, JSON lines (pino) in production. One call, one line.
 */
import { createRequire } from 'node:module'
import pc from 'picocolors'

export type Fields = Record<string, unknown>

export interface Log {
  info(message: string, fields?: Fields): void
  warn(message: string, fields?: Fields): void
  error(message: string, fields?: Fields): void
}

/** Lines for people, on stderr. */
export function readableLog(write: (line: string) => void = (line) => process.stderr.write(line)): Log {
  const line = (mark: string) => (message: string, fields?: Fields) => {
    const { stack, ...rest } = fields ?? {}
    const tail = Object.keys(rest).length > 0 ? ` ${pc.dim(JSON.stringify(rest))}` : ''
    write(`${mark} ${message}${tail}\n${typeof stack === 'string' ? `${pc.dim(stack)}\n` : ''}`)
  }
  return { info: line(pc.cyan('•')), warn: line(pc.yellow('!')), error: line(pc.red('✖')) }
}

/**
 * Lines for machines, on stdout.
 *
 * @param mark goes before each. The platform needs one: a line may come while the program is in the middle of its own
 */
export function jsonLog(mark = ''): Log {
  const { pino }: typeof import('pino') = createRequire(import.meta.url)('pino')
  const out = pino.destination({ sync: true })
  const logger = pino({ base: null }, { write: (line) => void out.write(mark + line) })
  return {
    info: (message, fields) => logger.info(fields ?? {}, message),
    warn: (message, fields) => logger.warn(fields ?? {}, message),
    error: (message, fields) => logger.error(fields ?? {}, message),
  }
}
