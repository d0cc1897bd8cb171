/**
 * `tidepool deploy`: this folder, live. Only what the platform lacks is uploaded; the deployment is followed to its end.
 */
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import pc from 'picocolors'
import { type Api, ApiFailure, connect, type DeploymentInfo, type PodInfo } from './api.ts'
import type { Output } from './output.ts'
import { nameOf, readLink, readLocalFiles, readLocalSecrets, readSource, type Source, writeLink } from './project.ts'

export interface DeployOptions {
  url?: string
  name?: string
  message?: string
  secret?: string[]
}

const parallel = 8

/** Runs `work` on each item, a few at a time, showing how far it is. */
async function each<T>(
  items: readonly T[],
  what: string,
  output: Output,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0
  let done = 0
  const worker = async () => {
    for (let at = next++; at < items.length; at = next++) {
      const item = items[at]
      if (item === undefined) continue
      await work(item)
      done += 1
      output.progress(`${what} ${bar(done, items.length)} ${done}/${items.length}`)
    }
  }
  await Promise.all(Array.from({ length: Math.min(parallel, items.length) }, worker))
  output.progress()
}

function bar(done: number, all: number): string {
  const width = 24
  const full = Math.round((done / all) * width)
  return `${'█'.repeat(full)}${'░'.repeat(width - full)}`
}

/** `--secret K=V`, several times. @throws TpError `usage` */
export async function givenSecrets(given: readonly string[] = []): Promise<Record<string, string>> {
  const { TpError } = await import('../src/errors.ts')
  return Object.fromEntries(
    given.map((text) => {
      const at = text.indexOf('=')
      if (at < 1) throw new TpError('usage', '--secret takes NAME=value', { hint: 'Give it once for each secret.' })
      return [text.slice(0, at), text.slice(at + 1)]
    }),
  )
}

/** Sends files of tp_data/files/ that the pod lacks or has an older version of. @returns their names */
export async function uploadFiles(api: Api, pod: string, dir: string, output: Output): Promise<string[]> {
  const stale = await staleFiles(api, pod, dir)
  await each(stale, 'files', output, async (name) => {
    const path = name.split('/').map(encodeURIComponent).join('/')
    await api.call('PUT', `/api/pods/${pod}/files/${path}`, {
      bytes: await readFile(join(dir, 'tp_data', 'files', name)),
    })
  })
  return stale
}

/** Files here that the pod lacks, or has in another size or older. */
export async function staleFiles(api: Api, pod: string, dir: string): Promise<string[]> {
  const local = await readLocalFiles(dir)
  if (local.length === 0) return []
  const remote = await remoteFiles(api, pod)
  return local
    .filter(({ name, size, modifiedAt }) => {
      const there = remote.get(name)
      return !there || there.size !== size || there.modifiedAt < modifiedAt
    })
    .map(({ name }) => name)
}

/** All files of a pod by name. */
export async function remoteFiles(api: Api, pod: string): Promise<Map<string, { size: number; modifiedAt: number }>> {
  const all = new Map<string, { size: number; modifiedAt: number }>()
  for (let after = ''; ; ) {
    const { files } = await api.call<{ files: { name: string; size: number; modifiedAt: number }[] }>(
      'GET',
      `/api/pods/${pod}/files?limit=1000&after=${encodeURIComponent(after)}`,
    )
    for (const { name, ...rest } of files) all.set(name, rest)
    after = files.at(-1)?.name ?? ''
    if (files.length < 1000) return all
  }
}

/** Uploads what is missing and begins a deployment, waiting for one that is under way. */
export async function beginDeployment(
  api: Api,
  pod: string,
  dir: string,
  { files }: Source,
  extra: { secrets?: Record<string, string>; message?: string; before?: string },
  output: Output,
): Promise<DeploymentInfo> {
  const set = extra.secrets ?? {}
  const body = {
    files: files.map(({ path, sha256, size }) => [path, sha256, size]),
    ...(Object.keys(set).length > 0 && { secrets: { set } }),
    ...(extra.message && { message: extra.message }),
    ...(extra.before && { before: extra.before }),
  }
  for (;;) {
    try {
      return (await api.call<{ deployment: DeploymentInfo }>('POST', `/api/pods/${pod}/deployments`, { body }))
        .deployment
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error
      const { code, missing, deployment } = error.body
      if (code === 'missing_files' && Array.isArray(missing)) {
        const wanted = new Map(
          files.filter(({ sha256 }) => missing.includes(sha256)).map((file) => [file.sha256, file]),
        )
        await each([...wanted.values()], 'source', output, async ({ path, sha256 }) => {
          await api.call('PUT', `/api/pods/${pod}/source/${sha256}`, { bytes: await readFile(join(dir, path)) })
        })
      } else if (code === 'deploy_running' && typeof deployment === 'string') {
        output.line(pc.dim(`waiting for deployment ${deployment}, which is under way`))
        await followDeployment(api, pod, deployment, output).catch(() => undefined)
      } else throw error
    }
  }
}

const isOver = ({ status }: DeploymentInfo) => status !== 'queued' && status !== 'running'

/** Follows a deployment to its end, across restarts of the platform. @throws ApiFailure with the pod's own error when it failed */
export async function followDeployment(api: Api, pod: string, id: string, output: Output): Promise<DeploymentInfo> {
  const path = `/api/pods/${pod}/deployments/${id}`
  const told = new Set<string>()
  let last: DeploymentInfo | undefined
  const show = (deployment: DeploymentInfo) => {
    last = deployment
    for (const { name, status, startedAt, endedAt } of deployment.steps) {
      if (status === 'running') output.progress(`  … ${name}`)
      const mark = `${name} ${status}`
      if (status === 'running' || told.has(mark)) continue
      told.add(mark)
      output.progress()
      const seconds = endedAt ? ((Date.parse(endedAt) - Date.parse(startedAt)) / 1000).toFixed(1) : ''
      output.line(
        `  ${status === 'completed' ? pc.green('✔') : pc.red('✖')} ${name.padEnd(8)} ${pc.dim(`${seconds} s`)}`,
      )
    }
  }
  while (!last || !isOver(last)) {
    try {
      for await (const deployment of api.events<DeploymentInfo>(`${path}/events`)) {
        show(deployment)
        // Traffic has moved; what is left is the old version's farewell.
        if (deployment.status === 'live') break
      }
      if (last && isOver(last)) break
    } catch (error) {
      if (error instanceof ApiFailure) throw error
    }
    await new Promise((done) => setTimeout(done, 300))
    show((await api.call<{ deployment: DeploymentInfo }>('GET', path)).deployment)
  }
  output.progress()
  if (last.status === 'live' || last.status === 'superseded') return last
  const error = last.error ?? { error: `The deployment was ${last.status}.`, code: last.status, hint: 'Deploy again.' }
  throw new ApiFailure(422, { ...error, deployment: id, ...(last.liveAt ? {} : { live: false }) })
}

/** The pod of a folder, made if there is none of its name. */
export async function podOf(api: Api, dir: string, name?: string): Promise<PodInfo> {
  const link = await readLink(dir, api.url)
  if (link && !name) {
    try {
      return (await api.call<{ pod: PodInfo }>('GET', `/api/pods/${link.pod}`)).pod
    } catch (error) {
      // Deleted, or of another agent: the name is tried anew.
      if (!(error instanceof ApiFailure && error.status === 404)) throw error
    }
  }
  const wanted = name ?? link?.name ?? (await nameOf(dir))
  return (await api.call<{ pod: PodInfo }>('POST', '/api/pods', { body: { name: wanted } })).pod
}

/**
 * Deploys the folder.
 * @throws TpError `no_main`, `bad_data_file`, `unauthorized`; ApiFailure with what the platform or the pod said
 */
export async function deploy(folder: string, options: DeployOptions, output: Output): Promise<void> {
  const dir = resolve(folder)
  const source = await readSource(dir)
  const secrets = { ...(await readLocalSecrets(dir)), ...(await givenSecrets(options.secret)) }
  const api = await connect(options.url)
  const startedAt = Date.now()
  const pod = await podOf(api, dir, options.name)
  await writeLink(dir, { url: api.url, pod: pod.id, name: pod.name })
  for (const warning of source.warnings) output.warn(warning)
  output.line(`Deploying ${pc.bold(pod.name)} (${source.files.length} files) to ${api.url}`)
  const files = await uploadFiles(api, pod.id, dir, output)
  const begun = await beginDeployment(api, pod.id, dir, source, { secrets, message: options.message }, output)
  const live = await followDeployment(api, pod.id, begun.id, output)
  await writeLink(dir, { url: api.url, pod: pod.id, name: pod.name, deployment: live.id })
  const ms = Date.now() - startedAt
  output.result(
    {
      url: live.url,
      pod: pod.id,
      name: pod.name,
      deployment: live.id,
      number: live.number,
      ms,
      files: source.files.length,
      uploaded: files,
      warnings: source.warnings,
    },
    `\n  ${pc.cyan(live.url)} is live (#${live.number}, ${(ms / 1000).toFixed(1)} s)\n`,
  )
}
