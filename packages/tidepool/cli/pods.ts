/**
 * Commands on one pod: `status`, `logs`, `open`, `restart`, `kill`, `activate`, `scale`, `rollback`, `undo`, `delete`,
 * `restore`, `secrets`. Which pod: the argument of --pod, or the one that the folder is linked to.
 */
import { spawn } from 'node:child_process'
import { resolve } from 'node:path'
import pc from 'picocolors'
import { TpError } from '../src/errors.ts'
import { type Api, connect, type DeploymentInfo, type PodInfo } from './api.ts'
import { followDeployment, givenSecrets } from './deploy.ts'
import type { Output } from './output.ts'
import { readLink } from './project.ts'
import { confirm } from './sync.ts'

export interface PodOptions {
  url?: string
  pod?: string
  yes?: boolean
}

interface ReplicaInfo {
  id: string
  state: string
  deployment: string
  restarts: number
  memoryBytes: number | null
}

interface Line {
  at: number
  level: string
  replica: string
  message: string
  [field: string]: unknown
}

/** The API, and the id or name of the pod that is meant. @throws TpError `usage` */
async function chosen(options: PodOptions): Promise<{ api: Api; pod: string }> {
  const api = await connect(options.url)
  const pod = options.pod ?? (await readLink(resolve('.'), api.url))?.pod
  if (!pod)
    throw new TpError('usage', 'Which pod? This folder belongs to none', {
      hint: 'Use --pod <name>, or run it in the folder of the pod.',
      next: ['tidepool status'],
    })
  return { api, pod: encodeURIComponent(pod) }
}

/** One pod in full, or all of them where no folder says which. */
export async function status(options: PodOptions, output: Output): Promise<void> {
  const api = await connect(options.url)
  const which = options.pod ?? (await readLink(resolve('.'), api.url))?.pod
  if (!which) {
    const { pods } = await api.call<{ pods: PodInfo[] }>('GET', '/api/pods')
    const lines = pods.map(
      ({ id, name, status, replicas, url }) =>
        `${id}  ${status.padEnd(8)} ${String(replicas).padStart(2)}×  ${name.padEnd(20)} ${pc.cyan(url)}`,
    )
    return output.result(
      { pods },
      lines.join('\n') || 'No pods yet.\n  tidepool init my-app && cd my-app && tidepool deploy',
    )
  }
  const path = `/api/pods/${encodeURIComponent(which)}`
  const found = await api.call<{
    pod: PodInfo
    replicas: ReplicaInfo[]
    data: { dbBytes: number; files: number; fileBytes: number }
  }>('GET', path)
  const { deployments } = await api.call<{ deployments: DeploymentInfo[] }>('GET', `${path}/deployments?limit=5`)
  const { pod, replicas, data } = found
  output.result(
    { ...found, deployments },
    [
      `${pc.bold(pod.name)} (${pod.id})  ${pod.status}  ${pc.cyan(pod.url)}`,
      ...replicas.map(
        ({ id, state, restarts, memoryBytes }) =>
          `  ${id}  ${state.padEnd(9)} ${memoryBytes ? `${Math.round(memoryBytes / 1024 ** 2)} MB` : ''}${restarts > 0 ? `  restarted ${restarts}×` : ''}`,
      ),
      `  database ${data.dbBytes} bytes, ${data.files} files (${data.fileBytes} bytes)`,
      ...deployments.map(
        ({ number, id, status, message, createdAt }) =>
          `  #${number}  ${id}  ${status.padEnd(10)} ${createdAt}${message ? `  ${message}` : ''}`,
      ),
    ].join('\n'),
  )
}

/** Without what would move the cursor, set a title or clear the terminal: lines may quote what strangers have sent. */
const harmless = (text: string) =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
  text.replace(/\u001b(?!\[[\d;]*m)|[\u0000-\u0008\u000b-\u001a\u001c-\u001f\u007f-\u009f]/g, '')

/** The pod's log. */
export async function logs(options: PodOptions & { follow?: boolean; limit: string }, output: Output): Promise<void> {
  const { api, pod } = await chosen(options)
  const text = ({ at, level, replica, message, file, line, stack }: Line) => {
    const mark = level === 'error' ? pc.red('✖') : level === 'warn' ? pc.yellow('!') : pc.cyan('•')
    const place = typeof file === 'string' ? pc.cyan(` ${file}${line ? `:${line}` : ''}`) : ''
    const trace = typeof stack === 'string' ? `\n${pc.dim(stack)}` : ''
    return harmless(`${pc.dim(`${new Date(at).toISOString()} ${replica}`)} ${mark} ${message}${place}${trace}`)
  }
  const path = `/api/pods/${pod}/logs?limit=${encodeURIComponent(options.limit)}`
  if (!options.follow) {
    const { lines } = await api.call<{ lines: Line[] }>('GET', path)
    return output.result({ lines }, lines.map(text).join('\n'))
  }
  const stop = new AbortController()
  process.once('SIGINT', () => stop.abort())
  let since = 0
  while (!stop.signal.aborted) {
    try {
      for await (const line of api.events<Line>(`${path}&follow=1&since=${since}`, stop.signal)) {
        since = Math.max(since, line.at)
        // One document a line, since there is no end to wait for.
        process.stdout.write(`${output.json ? JSON.stringify(line) : text(line)}\n`)
      }
    } catch (error) {
      if (stop.signal.aborted) return
      if (error instanceof Error && error.name === 'ApiFailure') throw error
    }
    await new Promise((done) => setTimeout(done, 500))
  }
}

/** Opens the pod in a browser, on a terminal; elsewhere prints where it is. */
export async function open(options: PodOptions, output: Output): Promise<void> {
  const { api, pod } = await chosen(options)
  const found = await api.call<{ pod: PodInfo }>('GET', `/api/pods/${pod}`)
  if (process.stdout.isTTY && !output.json) {
    const command = process.platform === 'darwin' ? 'open' : 'xdg-open'
    spawn(command, [found.pod.url], { detached: true, stdio: 'ignore' })
      .on('error', () => {})
      .unref()
  }
  output.result({ url: found.pod.url }, found.pod.url)
}

/** A change that is one call: restart, kill, activate, restore. */
export async function act(
  verb: 'restart' | 'kill' | 'activate' | 'restore',
  options: PodOptions,
  output: Output,
): Promise<void> {
  const { api, pod } = await chosen(options)
  const { pod: now } = await api.call<{ pod: PodInfo }>('POST', `/api/pods/${pod}/${verb}`)
  const said = {
    restart: 'was restarted',
    kill: 'is stopped; its data stays',
    activate: 'is started',
    restore: 'is back',
  }[verb]
  output.result({ pod: now }, `${now.name} ${said}. ${pc.cyan(now.url)}`)
}

/** Changes the number of processes. @throws TpError `usage` */
export async function scale(count: string, options: PodOptions, output: Output): Promise<void> {
  const replicas = Number(count)
  if (!Number.isInteger(replicas) || replicas < 1 || replicas > 10)
    throw new TpError('usage', `"${count}" is not a number of processes`, { hint: 'Use 1 to 10.' })
  const { api, pod } = await chosen(options)
  await api.call<{ pod: PodInfo }>('PATCH', `/api/pods/${pod}`, { body: { replicas } })
  // Done when they answer.
  const until = Date.now() + 60_000
  for (;;) {
    const { pod: now, replicas: running } = await api.call<{ pod: PodInfo; replicas: ReplicaInfo[] }>(
      'GET',
      `/api/pods/${pod}`,
    )
    const healthy = running.filter(
      ({ state, deployment }) => state === 'healthy' && deployment === now.deployment,
    ).length
    if (healthy === replicas || now.status !== 'running')
      return output.result({ pod: now, healthy }, `${now.name} has ${replicas} process${replicas > 1 ? 'es' : ''}.`)
    if (Date.now() > until)
      throw new TpError('unavailable', `${healthy} of ${replicas} processes answer after a minute`, {
        next: ['tidepool status', 'tidepool logs'],
      })
    output.progress(`  ${healthy}/${replicas} processes`)
    await new Promise((done) => setTimeout(done, 200))
  }
}

async function finish(api: Api, pod: string, deployment: DeploymentInfo, said: string, output: Output): Promise<void> {
  const live = await followDeployment(api, pod, deployment.id, output)
  output.result(
    { url: live.url, deployment: live.id, number: live.number, message: live.message },
    `\n  ${said} (#${live.number}) ${pc.cyan(live.url)}\n`,
  )
}

/** Brings an earlier version's code back. */
export async function rollback(which: string | undefined, options: PodOptions, output: Output): Promise<void> {
  const { api, pod } = await chosen(options)
  const { deployment } = await api.call<{ deployment: DeploymentInfo }>('POST', `/api/pods/${pod}/rollback`, {
    body: which ? { deployment: which } : {},
  })
  await finish(api, pod, deployment, 'Rolled back', output)
}

/** Takes back the last deployment or destruction: code, secrets and data. */
export async function undo(options: PodOptions, output: Output): Promise<void> {
  const { api, pod } = await chosen(options)
  await confirm(
    'Code, secrets and data become what they were before the last deployment or push that replaced data. `tidepool undo` again takes that back.',
    options.yes,
    output,
  )
  const { undone, deployment } = await api.call<{ undone: string; deployment: DeploymentInfo | null }>(
    'POST',
    `/api/pods/${pod}/undo`,
    { once: true },
  )
  if (deployment) return finish(api, pod, deployment, `Undid the last ${undone}`, output)
  output.result({ undone, deployment: null }, `Undid the last ${undone}: the data is back.`)
}

/** Deletes a pod; it can be restored for 7 days. */
export async function remove(options: PodOptions, output: Output): Promise<void> {
  const { api, pod } = await chosen(options)
  const found = await api.call<{ pod: PodInfo; data: { dbBytes: number; files: number } }>('GET', `/api/pods/${pod}`)
  await confirm(
    `${found.pod.name} stops answering at ${found.pod.url}; its database (${found.data.dbBytes} bytes) and ${found.data.files} files can be restored for 7 days.`,
    options.yes,
    output,
  )
  const { pod: gone } = await api.call<{ pod: PodInfo }>('DELETE', `/api/pods/${pod}`)
  output.result(
    { pod: gone },
    `Deleted ${gone.name}. Until ${gone.restorableUntil}:\n  tidepool restore --pod ${gone.id}`,
  )
}

/** `secrets set NAME=value …`, `secrets list`, `secrets unset NAME …` */
export async function secrets(verb: string, args: string[], options: PodOptions, output: Output): Promise<void> {
  const { api, pod } = await chosen(options)
  const path = `/api/pods/${pod}/secrets`
  if (verb === 'list') {
    const { names } = await api.call<{ names: string[] }>('GET', path)
    return output.result({ names }, names.join('\n') || 'No secrets.\n  tidepool secrets set NAME=value')
  }
  if (verb !== 'set' && verb !== 'unset')
    throw new TpError('usage', `secrets does not know "${verb}"`, { hint: 'Use set, list or unset.' })
  if (args.length === 0)
    throw new TpError('usage', `secrets ${verb} needs a name`, {
      next: ['tidepool secrets set NAME=value', 'tidepool secrets unset NAME'],
    })
  const body = verb === 'set' ? { set: await givenSecrets(args), restart: true } : { unset: args, restart: true }
  const { names, deployment } = await api.call<{ names: string[]; deployment: string | null }>('PATCH', path, { body })
  if (deployment) await followDeployment(api, pod, deployment, output)
  output.result(
    { names, deployment },
    `Secrets: ${names.join(', ') || 'none'}.${deployment ? ' The app runs with them.' : ''}`,
  )
}
