// Limits of memory, processor and processes by control groups, version 1 or 2, whichever is there and may be written.
//
// Version 1 has a tree for each controller, version 2 one for all. A group is made before its process starts, which
// joins it before it becomes the sandbox, so nothing ever runs outside.
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'

/** What one sandbox may use. */
export interface Limits {
  memoryMb: number
  /** 0.5: half a core. */
  cpus: number
  processes: number
}

export interface Cgroup {
  /** Files that a process writes its id into to join. */
  joins: string[]
  /** Whether the kernel ended a process of the group for want of memory. */
  outOfMemory(): boolean
  /** Bytes in use now. */
  memory(): number | undefined
  /** Processor time used since it was made, ms. */
  cpuMs(): number | undefined
  /** Removes the group, once it is empty. */
  remove(): void
}

export interface Cgroups {
  version: 1 | 2
  /** Limits that this machine cannot set. */
  missing: string[]
  create(name: string, limits: Limits): Cgroup
  /** Removes empty groups whose names start so: of a process that was killed. */
  sweep(prefix: string): void
}

const root = '/sys/fs/cgroup'
const periodUs = 100_000

function writable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch {
    return false
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function numberOf(text: string, factor: number): number | undefined {
  return text.trim() === '' ? undefined : Number(text) * factor
}

/** A group that lost its last process a moment ago may still be busy; it is removed at the next try. */
function remove(paths: readonly string[]): void {
  for (const path of paths) {
    try {
      rmdirSync(path)
    } catch {
      // Busy or gone already.
    }
  }
}

function children(dir: string, prefix: string): string[] {
  try {
    return readdirSync(dir)
      .filter((name) => name.startsWith(prefix))
      .map((name) => join(dir, name))
  } catch {
    return []
  }
}

function version1(): Cgroups | undefined {
  const controllers = (['memory', 'cpu', 'pids'] as const).filter((name) => writable(join(root, name)))
  if (controllers.length === 0) return undefined
  return {
    version: 1,
    sweep: (prefix) =>
      remove(controllers.flatMap((controller) => children(join(root, controller, 'tidepool'), prefix))),
    missing: ['memory', 'cpu', 'pids'].filter((name) => !controllers.some((each) => each === name)),
    create(name, { memoryMb, cpus, processes }) {
      const at = (controller: string) => join(root, controller, 'tidepool', name)
      const set = (controller: string, file: string, value: number) => {
        const path = join(at(controller), file)
        // Swap is counted only where the kernel was told to.
        if (existsSync(path)) writeFileSync(path, String(value))
      }
      for (const controller of controllers) mkdirSync(at(controller), { recursive: true })
      if (controllers.includes('memory')) {
        set('memory', 'memory.limit_in_bytes', memoryMb * 1024 * 1024)
        set('memory', 'memory.memsw.limit_in_bytes', memoryMb * 1024 * 1024)
      }
      if (controllers.includes('cpu')) {
        set('cpu', 'cpu.cfs_period_us', periodUs)
        set('cpu', 'cpu.cfs_quota_us', Math.round(cpus * periodUs))
      }
      if (controllers.includes('pids')) set('pids', 'pids.max', processes)
      return {
        joins: controllers.map((controller) => join(at(controller), 'cgroup.procs')),
        outOfMemory: () =>
          / [1-9]/.test(/^oom_kill.*$/m.exec(read(join(at('memory'), 'memory.oom_control')))?.[0] ?? ''),
        memory: () => Number(read(join(at('memory'), 'memory.usage_in_bytes'))) || undefined,
        // Counted by a controller that is mounted together with cpu nearly everywhere.
        cpuMs: () => numberOf(read(join(at('cpu'), 'cpuacct.usage')), 1e-6),
        remove: () => remove(controllers.map(at)),
      }
    },
  }
}

function version2(base: string | undefined): Cgroups | undefined {
  const dir = base ?? root
  if (!existsSync(join(dir, 'cgroup.controllers')) || !writable(join(dir, 'cgroup.subtree_control'))) return undefined
  const offered = read(join(dir, 'cgroup.controllers')).trim().split(' ')
  const controllers = ['memory', 'cpu', 'pids'].filter((name) => offered.includes(name))
  if (controllers.length === 0) return undefined
  const parent = join(dir, 'tidepool')
  const enable = controllers.map((name) => `+${name}`).join(' ')
  try {
    writeFileSync(join(dir, 'cgroup.subtree_control'), enable)
    mkdirSync(parent, { recursive: true })
    writeFileSync(join(parent, 'cgroup.subtree_control'), enable)
  } catch {
    return undefined
  }
  return {
    version: 2,
    sweep: (prefix) => remove(children(parent, prefix)),
    missing: ['memory', 'cpu', 'pids'].filter((name) => !controllers.includes(name)),
    create(name, { memoryMb, cpus, processes }) {
      const path = join(parent, name)
      mkdirSync(path, { recursive: true })
      const set = (file: string, value: string) => {
        if (existsSync(join(path, file))) writeFileSync(join(path, file), value)
      }
      set('memory.max', String(memoryMb * 1024 * 1024))
      set('memory.swap.max', '0')
      set('cpu.max', `${Math.round(cpus * periodUs)} ${periodUs}`)
      set('pids.max', String(processes))
      return {
        joins: [join(path, 'cgroup.procs')],
        outOfMemory: () => /^oom_kill [1-9]/m.test(read(join(path, 'memory.events'))),
        memory: () => Number(read(join(path, 'memory.current'))) || undefined,
        cpuMs: () => numberOf(/^usage_usec (\d+)/m.exec(read(join(path, 'cpu.stat')))?.[1] ?? '', 1e-3),
        remove: () => remove([path]),
      }
    },
  }
}

/**
 * The control groups of this machine, or undefined when none may be written.
 * @param base of version 2: a delegated group, when the root is not ours
 */
export function openCgroups(base?: string): Cgroups | undefined {
  return version2(base) ?? version1()
}
