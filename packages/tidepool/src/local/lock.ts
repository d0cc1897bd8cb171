/**
 * One process per folder: a lock file that names its owner, and outlives nobody.
 *
 * Invariants: taking it is atomic (a hard link of a complete file); a lock whose process is gone is taken over, and
 * of several that try to at once, one succeeds.
 */
import { linkSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { TpError } from '../errors.ts'

interface Owner {
  pid: number
  /** Tells a process from a later one with the same id, where the system says (Linux). */
  born: string
  /** What to say about the owner, e.g. the address of its dev server. */
  note: string
}

function bornAt(pid: number): string {
  try {
    // Field 22, counted after the process name, which may contain spaces and brackets.
    return (
      readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ')[19] ?? ''
    )
  } catch {
    return ''
  }
}

function isAlive({ pid, born }: Owner): boolean {
  if (pid === process.pid) return born === bornAt(pid)
  try {
    process.kill(pid, 0)
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
  return born === bornAt(pid)
}

function ownerOf(file: string): { owner: Owner | undefined; text: string } {
  try {
    const text = readFileSync(file, 'utf8')
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed !== 'object' || parsed === null || !('pid' in parsed) || typeof parsed.pid !== 'number')
      return { owner: undefined, text }
    const born = 'born' in parsed && typeof parsed.born === 'string' ? parsed.born : ''
    const note = 'note' in parsed && typeof parsed.note === 'string' ? parsed.note : ''
    return { owner: { pid: parsed.pid, born, note }, text }
  } catch {
    return { owner: undefined, text: '' }
  }
}

/**
 * Takes the lock, or says who has it.
 * @param note what to tell the next one who tries
 * @returns gives it back
 * @throws TpError `locked`, with the owner's note
 */
export function takeLock(file: string, note = ''): () => void {
  const mine = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}`
  const text = JSON.stringify({ pid: process.pid, born: bornAt(process.pid), note })
  writeFileSync(mine, text, { mode: 0o600 })
  try {
    for (let tries = 0; tries < 20; tries++) {
      try {
        linkSync(mine, file)
        return () => {
          if (ownerOf(file).text === text) unlinkSync(file)
        }
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
      }
      const { owner, text: seen } = ownerOf(file)
      if (owner && isAlive(owner)) {
        const who = `process ${owner.pid}${owner.note ? ` (${owner.note})` : ''}`
        throw new TpError('locked', `Another process already uses this folder: ${who}`, {
          hint: `Use that one, or stop it first: kill ${owner.pid}`,
        })
      }
      // Somebody may have taken over between the look and the rename: then what was moved is put back.
      const aside = `${mine}.old`
      try {
        renameSync(file, aside)
        if (ownerOf(aside).text !== seen) linkSync(aside, file)
        unlinkSync(aside)
      } catch {
        // Another process is taking over as well; look again.
      }
    }
    throw new TpError('locked', 'Another process is starting in this folder')
  } finally {
    unlinkSync(mine)
  }
}
