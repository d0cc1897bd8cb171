/**
 * `tidepool pull` and `tidepool push`: a pod as a folder, with everything it keeps, and back.
 */
import { createWriteStream, existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import pc from 'picocolors'
import { TpError } from '../src/errors.ts'
import { checkFileName } from '../src/local/files.ts'
import { type Api, connect, type PodInfo } from './api.ts'
import { beginDeployment, followDeployment, givenSecrets, remoteFiles, staleFiles, uploadFiles } from './deploy.ts'
import type { Output } from './output.ts'
import { readLink, readLocalFiles, readLocalSecrets, readSource, writeLink } from './project.ts'

/** Writes what an answer brings, whole or not at all. */
async function save(path: string, response: Response, mode = 0o644): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  const body = response.body ? Readable.fromWeb(response.body as never) : Readable.from([])
  await pipeline(body, createWriteStream(`${path}.incoming`, { mode }))
  await rename(`${path}.incoming`, path)
}

/**
 * Brings a pod into a folder: source, database, secrets, files.
 * @param which name or id
 * @throws TpError `folder_exists` when the folder holds something else; ApiFailure `not_found`
 */
export async function pull(
  which: string | undefined,
  options: { url?: string; dir?: string },
  output: Output,
): Promise<void> {
  const dir = resolve(options.dir ?? '.')
  const api = await connect(options.url)
  const link = await readLink(dir, api.url)
  const asked = which ?? link?.pod
  if (!asked)
    throw new TpError('usage', 'pull needs the name or id of a pod', {
      next: ['tidepool status', 'tidepool pull my-app --dir my-app'],
    })
  const { pod } = await api.call<{ pod: PodInfo }>('GET', `/api/pods/${encodeURIComponent(asked)}`)
  const there = existsSync(dir) ? (await readdir(dir)).filter((name) => !name.startsWith('.')) : []
  if (there.length > 0 && link?.pod !== pod.id)
    throw new TpError('folder_exists', `${dir} holds something else`, {
      next: [`tidepool pull ${pod.name} --dir ${pod.name}`],
    })
  await mkdir(join(dir, 'tp_data', 'files'), { recursive: true })
  const source = await api.call<{ deployment: string; files: [string, string, number][] }>(
    'GET',
    `/api/pods/${pod.id}/source`,
  )
  for (const [path, sha256] of source.files)
    await save(join(dir, ...checkFileName(path).split('/')), await api.open(`/api/pods/${pod.id}/source/${sha256}`))
  await save(join(dir, 'tp_data', 'db.json'), await api.open(`/api/pods/${pod.id}/db`), 0o600)
  const db: unknown = JSON.parse(await readFile(join(dir, 'tp_data', 'db.json'), 'utf8'))
  await writeFile(join(dir, 'tp_data', 'db.json'), `${JSON.stringify(db, null, 2)}\n`, { mode: 0o600 })
  const { values } = await api.call<{ values: Record<string, string> }>('GET', `/api/pods/${pod.id}/secrets?values=1`)
  await writeFile(join(dir, 'tp_data', 'secrets.json'), `${JSON.stringify(values, null, 2)}\n`, { mode: 0o600 })
  const files = await remoteFiles(api, pod.id)
  for (const name of files.keys()) {
    const path = checkFileName(name).split('/')
    await save(
      join(dir, 'tp_data', 'files', ...path),
      await api.open(`/api/pods/${pod.id}/files/${path.map(encodeURIComponent).join('/')}`),
      0o600,
    )
  }
  await writeLink(dir, { url: api.url, pod: pod.id, name: pod.name, deployment: source.deployment })
  output.result(
    {
      dir,
      pod: pod.id,
      name: pod.name,
      deployment: source.deployment,
      files: source.files.length,
      stored: files.size,
      secrets: Object.keys(values).length,
    },
    `Pulled ${pod.name} into ${dir}: ${source.files.length} source files, ${files.size} stored files, ${Object.keys(values).length} secrets.\n  tidepool dev    runs it here\n  tidepool push   sends changes back`,
  )
}

export interface PushOptions {
  url?: string
  dir?: string
  yes?: boolean
  replaceDb?: boolean
  sync?: boolean
  file?: string
  secret?: string[]
  message?: string
}

interface Plan {
  source: { added: string[]; changed: string[]; removed: string[] }
  db: { mode: 'merge' | 'replace'; set: number; removed: number } | null
  files: { upload: string[]; delete: string[] }
  secrets: string[]
}

async function readJsonObject(path: string): Promise<Record<string, unknown> | undefined> {
  if (!existsSync(path)) return undefined
  const { parseObject } = await import('../src/local/data-file.ts')
  return parseObject((await readFile(path, 'utf8')).trim() || '{}', path)
}

/** What a push would change. */
async function planPush(api: Api, pod: PodInfo, dir: string, options: PushOptions) {
  const source = await readSource(dir)
  const before = pod.deployment
    ? (await api.call<{ files: [string, string, number][] }>('GET', `/api/pods/${pod.id}/source`)).files
    : []
  const there = new Map(before.map(([path, sha256]) => [path, sha256]))
  const here = new Set(source.files.map(({ path }) => path))
  const db = await readJsonObject(resolve(dir, options.file ?? join('tp_data', 'db.json')))
  const current: Record<string, unknown> = db ? await api.call('GET', `/api/pods/${pod.id}/db`) : {}
  const changed = Object.entries(db ?? {}).filter(
    ([key, value]) => JSON.stringify(current[key]) !== JSON.stringify(value),
  )
  const secrets = { ...(await readLocalSecrets(dir)), ...(await givenSecrets(options.secret)) }
  const { values } = await api.call<{ values: Record<string, string> }>('GET', `/api/pods/${pod.id}/secrets?values=1`)
  const newSecrets = Object.fromEntries(Object.entries(secrets).filter(([name, value]) => values[name] !== value))
  const local = new Set((await readLocalFiles(dir)).map(({ name }) => name))
  const surplus = options.sync ? [...(await remoteFiles(api, pod.id)).keys()].filter((name) => !local.has(name)) : []
  const plan: Plan = {
    source: {
      added: source.files.filter(({ path }) => !there.has(path)).map(({ path }) => path),
      changed: source.files
        .filter(({ path, sha256 }) => there.has(path) && there.get(path) !== sha256)
        .map(({ path }) => path),
      removed: before.map(([path]) => path).filter((path) => !here.has(path)),
    },
    db: db
      ? {
          mode: options.replaceDb ? 'replace' : 'merge',
          set: changed.length,
          removed: options.replaceDb ? Object.keys(current).filter((key) => !Object.hasOwn(db, key)).length : 0,
        }
      : null,
    files: { upload: await staleFiles(api, pod.id, dir), delete: surplus },
    secrets: Object.keys(newSecrets),
  }
  return { plan, source, db: options.replaceDb ? db : Object.fromEntries(changed), newSecrets }
}

function describe(pod: PodInfo, { source, db, files, secrets }: Plan): string {
  const names = (list: string[]) => (list.length > 6 ? `${list.slice(0, 6).join(', ')} …` : list.join(', '))
  const lines = [
    source.added.length > 0 && `  source   + ${source.added.length}  ${names(source.added)}`,
    source.changed.length > 0 && `  source   ~ ${source.changed.length}  ${names(source.changed)}`,
    source.removed.length > 0 && `  source   - ${source.removed.length}  ${names(source.removed)}`,
    db && db.set > 0 && `  database ~ ${db.set} keys`,
    db &&
      db.removed > 0 &&
      pc.red(`  database - ${db.removed} keys are REMOVED (restorable for 7 days: tidepool undo)`),
    files.upload.length > 0 && `  files    + ${files.upload.length}  ${names(files.upload)}`,
    files.delete.length > 0 &&
      pc.red(`  files    - ${files.delete.length} are REMOVED (restorable for 7 days): ${names(files.delete)}`),
    secrets.length > 0 && `  secrets  ~ ${secrets.join(', ')}`,
  ].filter((line) => typeof line === 'string')
  return `${pc.bold(pod.name)} at ${pod.url}\n${lines.length > 0 ? lines.join('\n') : '  nothing changes'}`
}

/** Asks on a terminal; elsewhere a missing answer is an error that names the flag. */
export async function confirm(question: string, yes: boolean | undefined, output: Output): Promise<void> {
  if (yes) return
  if (output.json || !process.stdin.isTTY || !process.stdout.isTTY)
    throw new TpError('usage', 'This changes what is on the platform and nobody can be asked here', {
      hint: `Repeat with --yes (-y). ${question}`,
    })
  const prompt = createInterface({ input: process.stdin, output: process.stdout })
  const answer = await prompt.question(`${question}\nGo on? [y/N] `)
  prompt.close()
  if (!/^y(es)?$/i.test(answer.trim())) throw new TpError('usage', 'Nothing was changed')
}

/** Sends a folder back to its pod: source, database, files, secrets. @throws TpError `usage` without a linked pod or an answer */
export async function push(options: PushOptions, output: Output): Promise<void> {
  const dir = resolve(options.dir ?? '.')
  const api = await connect(options.url)
  const link = await readLink(dir, api.url)
  if (!link)
    throw new TpError('usage', 'This folder belongs to no pod yet', {
      next: ['tidepool deploy', 'tidepool pull my-app --dir my-app'],
    })
  const { pod } = await api.call<{ pod: PodInfo }>('GET', `/api/pods/${link.pod}`)
  const { plan, source, db, newSecrets } = await planPush(api, pod, dir, options)
  const summary = describe(pod, plan)
  output.line(summary)
  await confirm(summary, options.yes, output)
  // One snapshot for all of it, so that one undo takes all of it back.
  const { snapshot: before } =
    plan.files.delete.length > 0 || (plan.db?.removed ?? 0) > 0
      ? await api.call<{ snapshot: string }>('POST', `/api/pods/${pod.id}/snapshots`)
      : {}
  if (db && plan.db && (plan.db.set > 0 || plan.db.removed > 0)) {
    const mode = before ? `${plan.db.mode}&before=${before}` : plan.db.mode
    await api.call('PUT', `/api/pods/${pod.id}/db?mode=${mode}`, { body: db })
  }
  await uploadFiles(api, pod.id, dir, output)
  for (const name of plan.files.delete)
    await api.call('DELETE', `/api/pods/${pod.id}/files/${name.split('/').map(encodeURIComponent).join('/')}`)
  const { added, changed, removed } = plan.source
  let deployment = pod.deployment
  if (added.length + changed.length + removed.length + plan.secrets.length > 0) {
    const begun = await beginDeployment(
      api,
      pod.id,
      dir,
      source,
      { secrets: newSecrets, message: options.message, before },
      output,
    )
    deployment = (await followDeployment(api, pod.id, begun.id, output)).id
  }
  await writeLink(dir, { ...link, deployment })
  output.result(
    { ...plan, pod: pod.id, name: pod.name, url: pod.url, deployment },
    `\n  ${pc.cyan(pod.url)} is up to date\n`,
  )
}
