// What processes use of the machine.
import { readFileSync } from 'node:fs'

/** What a process uses, as far as this machine tells. */
export interface Use {
  memoryBytes: number | undefined
  /** Processor time since it was started, ms. */
  cpuMs: number | undefined
}

/** What the kernel says of one process: for machines whose control groups may not be written. */
export function useOf(pid: number | undefined): Use {
  const none = { memoryBytes: undefined, cpuMs: undefined }
  if (pid === undefined) return none
  try {
    const resident = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    // The name, in parentheses, may hold spaces. Ticks are hundredths of a second wherever Linux runs node.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? []
    const ticks = Number(fields[11]) + Number(fields[12])
    return { memoryBytes: resident ? Number(resident) * 1024 : undefined, cpuMs: ticks * 10 }
  } catch {
    // It has ended, or this is no Linux.
    return none
  }
}

/** Makes what turns processor time into cores in use since it was last asked. */
export function createMeter(): (cpuMs: number | undefined) => number | undefined {
  let last: { cpuMs: number; at: number } | undefined
  return (cpuMs) => {
    if (cpuMs === undefined) return undefined
    const now = { cpuMs, at: Date.now() }
    const before = last
    last = now
    return before && now.at > before.at ? Math.max(0, (cpuMs - before.cpuMs) / (now.at - before.at)) : undefined
  }
}
