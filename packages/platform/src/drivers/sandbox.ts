// The command line of a sandbox, as data: what a pod's process sees and may do. Nothing here starts anything.
//
//   /app                 the release, read-only      /tmp    scratch in memory, limited; its socket is in there
//   /run/platform.sock   the only way out            node, the runtime and its packages, read-only, where they are
//
// No network but its own empty one, no capabilities, no other processes, no terminal, another user.

export interface SandboxSpec {
  /** Folders of this machine that are visible at the same place: node, the runtime, its packages. */
  readOnly: readonly string[]
  /** Further folders: from here, to there. */
  binds: readonly { from: string; to: string; write?: boolean }[]
  /** Folders, inside, that exist and are empty. */
  dirs?: readonly string[]
  scratchMb: number
  workDir: string
  env: Readonly<Record<string, string>>
  command: readonly string[]
}

/** Places of a system that programs need to run at all. */
const system = ['/usr', '/lib', '/lib64', '/bin', '/sbin', '/etc/ssl', '/etc/alternatives', '/etc/ld.so.cache']

/** Arguments for bubblewrap. It reports the sandbox's process on the descriptor 3. */
export function bubblewrapArguments(spec: SandboxSpec): string[] {
  const args = ['--unshare-all', '--unshare-user', '--uid', '65534', '--gid', '65534', '--cap-drop', 'ALL']
  args.push('--hostname', 'pod', '--die-with-parent', '--new-session', '--as-pid-1', '--clearenv', '--info-fd', '3')
  for (const place of system) args.push('--ro-bind-try', place, place)
  args.push('--proc', '/proc', '--dev', '/dev')
  args.push('--size', String(spec.scratchMb * 1024 * 1024), '--tmpfs', '/tmp')
  // bubblewrap's /dev holds a file system of its own, in memory: nothing may be put there.
  args.push('--size', '65536', '--tmpfs', '/dev/shm')
  for (const dir of spec.dirs ?? []) args.push('--dir', dir)
  for (const path of spec.readOnly) args.push('--ro-bind', path, path)
  for (const { from, to, write } of spec.binds) args.push(write ? '--bind' : '--ro-bind', from, to)
  for (const [name, value] of Object.entries(spec.env)) args.push('--setenv', name, value)
  args.push('--remount-ro', '/dev', '--remount-ro', '/', '--chdir', spec.workDir, '--', ...spec.command)
  return args
}

/** Limits of single processes that the shell sets before it becomes the sandbox. */
export interface Ulimits {
  /** Largest file, MB. */
  fileMb: number
  openFiles: number
}

/**
 * A shell that joins control groups, sets limits, gives up privileges if it has any, and becomes `command`.
 * @param user numeric id to become, with no groups; undefined: stay
 */
export function limitedCommand(
  command: readonly string[],
  { joins, ulimits, user }: { joins: readonly string[]; ulimits: Ulimits; user: number | undefined },
): string[] {
  const script = [
    'set -e',
    ...joins.map((_, at) => `echo $$ > "$${at + 1}"`),
    `shift ${joins.length}`,
    'ulimit -c 0',
    // In blocks of 512 bytes, as POSIX has it.
    `ulimit -f ${ulimits.fileMb * 2048}`,
    `ulimit -n ${ulimits.openFiles}`,
    'exec "$@"',
  ].join('\n')
  const become =
    user === undefined ? [] : ['setpriv', `--reuid=${user}`, `--regid=${user}`, '--clear-groups', '--no-new-privs']
  return ['/bin/sh', '-c', script, 'sandbox', ...joins, ...become, ...command]
}
