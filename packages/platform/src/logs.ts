// Logs of pods: what their processes print, as JSON lines in a file a pod, rotated. Values of the pod's secrets are
// struck out before anything is written, and a flood is cut off with a note, so that neither reaches a disk.
import { createReadStream, existsSync } from 'node:fs'
import { appendFile, mkdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'

export interface LogLine {
  /** ms since 1970 */
  at: number
  level: 'info' | 'warn' | 'error'
  /** Which process said it; 'platform' for the platform itself. */
  replica: string
  message: string
  [field: string]: unknown
}

const fileBytes = 5 * 1024 * 1024
const filesKept = 4
const lineChars = 16_000
/** What one process may print in a second, characters. */
const perSecond = 256 * 1024
const levels = new Map<unknown, LogLine['level']>([
  [30, 'info'],
  [40, 'warn'],
  [50, 'error'],
  [60, 'error'],
])

/**
 * What the runtime puts before its own lines (RFC 7464): they may come while the program is in the middle of a line, and
 * without it that line would be two, with half of a secret in each.
 */
const ownLine = '\x1e'

/** Shorter ones would strike out half of every line. */
const leastSecret = 8

/**
 * The texts by which the values of secrets show: themselves, as JSON and console.log spell them, and the lines of those with several. The
 * longest first, so that nothing is left of one that holds another.
 */
export function struck(values: readonly string[]): string[] {
  const shown = values.flatMap((value) => [value, ...value.split(/\r?\n/)].map((text) => text.trim()))
  const texts = shown.flatMap((text) => [text, text.replaceAll('\\', '\\\\'), JSON.stringify(text).slice(1, -1)])
  const unique = [...new Set(texts)].filter((text) => text.length >= leastSecret)
  return unique.sort((a, b) => b.length - a.length)
}

/** @param secrets as `struck` gives them */
export function strike(text: string, secrets: readonly string[]): string {
  return secrets.reduce((all, secret) => all.replaceAll(secret, '[secret]'), text)
}

/** A line that is still being printed; pieces of one that does not end are taken as they come. */
function unfinished(take: (line: string) => void, secrets: () => readonly string[]) {
  let rest = ''
  return {
    add(text: string): void {
      rest += text
      if (rest.length <= lineChars) return
      // A secret that is cut in two would not be known again: so much stays as the longest of them has, and is cut
      // off where none goes on.
      const most = Math.max(0, ...secrets().map(({ length }) => length))
      if (rest.length <= lineChars + most) return
      const cleaned = strike(rest, secrets())
      take(cleaned.slice(0, -most || undefined))
      rest = most === 0 ? '' : cleaned.slice(-most)
    },
    end(): void {
      const line = rest
      rest = ''
      take(line)
    },
  }
}

/** Opens the logs in `dir`. */
export function createLogs(dir: string) {
  const followers = new Map<string, Set<(line: LogLine) => void>>()
  const writing = new Map<string, Promise<void>>()
  const waiting = new Map<string, string[]>()

  const file = (pod: string, generation = 0) => join(dir, pod, generation === 0 ? 'log' : `log.${generation}`)

  async function flush(pod: string): Promise<void> {
    await mkdir(join(dir, pod), { recursive: true, mode: 0o700 })
    for (;;) {
      const lines = waiting.get(pod)
      if (!lines || lines.length === 0) break
      waiting.set(pod, [])
      const size = await stat(file(pod)).then(
        (found) => found.size,
        () => 0,
      )
      if (size > fileBytes)
        for (let generation = filesKept - 1; generation >= 0; generation--)
          await rename(file(pod, generation), file(pod, generation + 1)).catch(() => {})
      await appendFile(file(pod), lines.join(''), { mode: 0o600 })
    }
  }

  function write(pod: string, line: LogLine): void {
    const lines = waiting.get(pod) ?? []
    waiting.set(pod, lines)
    lines.push(`${JSON.stringify(line)}\n`)
    for (const follower of followers.get(pod) ?? []) follower(line)
    if (writing.has(pod)) return
    // A log that cannot be written must not take the pod down.
    const work = flush(pod)
      .catch(() => {})
      .finally(() => writing.delete(pod))
    writing.set(pod, work)
  }

  function parse(text: string, replica: string): LogLine {
    const at = Date.now()
    try {
      const { time, level, msg, ...fields } = JSON.parse(text)
      if (typeof msg === 'string')
        return {
          ...fields,
          // An app can print what looks like the runtime's: its time must be one that a page can show.
          at: typeof time === 'number' && time > 0 && time <= at ? Math.trunc(time) : at,
          level: levels.get(level) ?? 'info',
          replica,
          message: msg,
        }
    } catch {
      // A line of the pod's own.
    }
    return { at, level: 'info', replica, message: text }
  }

  /** Takes in what a process prints. @param secrets texts to strike out, see `struck` */
  function capture(pod: string, replica: string, stream: Readable, secrets: () => readonly string[]): void {
    let second = 0
    let printed = 0
    const take = (whole: string) => {
      const now = Math.trunc(Date.now() / 1000)
      if (now !== second) {
        second = now
        printed = 0
      }
      const before = printed
      printed += whole.length
      if (printed > perSecond) {
        if (before <= perSecond)
          write(pod, {
            at: Date.now(),
            level: 'warn',
            replica,
            message: 'Too much output: the rest of this second is left out.',
          })
        return
      }
      const raw = strike(whole, secrets())
      if (raw !== '') write(pod, parse(raw.length > lineChars ? `${raw.slice(0, lineChars)} …` : raw, replica))
    }
    const printing = unfinished(take, secrets)
    const own = unfinished(take, secrets)
    let current = printing
    stream.setEncoding('utf8')
    stream.on('data', (chunk: string) => {
      for (const [n, line] of chunk.split('\n').entries()) {
        if (n > 0) {
          current.end()
          current = printing
        }
        for (const [m, piece] of line.split(ownLine).entries()) {
          if (m > 0) current = own
          current.add(piece)
        }
      }
    })
    stream.on('end', () => {
      own.end()
      printing.end()
    })
    stream.on('error', () => {})
  }

  /** The last lines, oldest first. @param options.since only later ones, ms since 1970 */
  async function tail(
    pod: string,
    { limit = 200, since = 0 }: { limit?: number; since?: number } = {},
  ): Promise<LogLine[]> {
    await writing.get(pod)
    const lines: LogLine[] = []
    for (let generation = filesKept; generation >= 0; generation--) {
      const path = file(pod, generation)
      if (!existsSync(path)) continue
      for await (const text of createInterface({
        input: createReadStream(path),
        crlfDelay: Number.POSITIVE_INFINITY,
      })) {
        try {
          const line: LogLine = JSON.parse(text)
          if (line.at > since) lines.push(line)
        } catch {
          // Cut off by a crash.
        }
        if (lines.length > limit * 2) lines.splice(0, lines.length - limit)
      }
    }
    return lines.slice(-limit)
  }

  return {
    write,
    capture,
    tail,
    /** Calls `heard` for every line from now on. @returns what ends that */
    follow(pod: string, heard: (line: LogLine) => void): () => void {
      const mine = followers.get(pod) ?? new Set()
      followers.set(pod, mine)
      mine.add(heard)
      return () => {
        mine.delete(heard)
        if (mine.size === 0) followers.delete(pod)
      }
    },
    async remove(pod: string): Promise<void> {
      await rm(join(dir, pod), { recursive: true, force: true })
    },
    async close(): Promise<void> {
      await Promise.all(writing.values())
    },
  }
}

export type Logs = ReturnType<typeof createLogs>
