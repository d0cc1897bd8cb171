// A small research agent: plans which files to read, summarises each in a step of its own, asks before it publishes,
// and writes a report. Kill it whenever you like and start it again with the run's id: what is done stays done.
//
//   npm run agent -- <folder> [run id]
import { appendFile, mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Tidebase } from '@tidebase/sdk'
import { summarise } from './summarise.ts'

const [folder = '.', runId] = process.argv.slice(2)
const out = resolve(process.env.AGENT_OUT ?? 'out')
/** Time that reading a file takes, ms, so that a person can watch (and interrupt) it. */
const paceMs = Number(process.env.AGENT_PACE_MS ?? 0)

const tide = new Tidebase()

const research = tide.workflow('research', async (run, input: { folder: string; out: string }) => {
  /** Notes what really ran, beside the checkpoints: the demo reads it. */
  const note = (line: string) => appendFile(join(input.out, 'ran.log'), `${line}\n`)

  const files = await run.step('plan', { sideEffects: ['read'] }, async () => {
    const names = await readdir(input.folder, { recursive: true })
    await note('plan')
    return names.filter((name) => name.endsWith('.md') && !name.includes('node_modules')).sort()
  })

  const findings: ({ file: string } & ReturnType<typeof summarise>)[] = []
  for (const file of files) {
    const finding = await run.step('read', { each: true, input: { file }, sideEffects: ['read'] }, async ({ name }) => {
      const text = await readFile(join(input.folder, file), 'utf8')
      await sleep(paceMs)
      const found = { file, ...summarise(text) }
      await run.usage({ kind: 'reading', quantity: found.words, unit: 'words' })
      await note(name)
      return found
    })
    findings.push(finding)
    await run.state.set({ read: findings.length, of: files.length })
  }

  const { approved, actor } = await run.gate('publish', `Publish a report on ${findings.length} files?`, {
    data: { titles: findings.map(({ title }) => title) },
  })
  if (!approved) return { published: false, by: actor }

  const report = join(input.out, `report-${run.id}.md`)
  // Writing the same file twice does no harm: the key says so, and the step may be repeated after a crash.
  await run.step('publish', { sideEffects: ['file.write'], idempotencyKey: report }, async () => {
    const sections = findings.map(
      ({ file, title, about, summary }) => `## ${title}\n\n${summary}\n\n*${file}: ${about.join(', ')}*\n`,
    )
    await writeFile(`${report}.tmp`, `# What the files say\n\n${sections.join('\n')}`)
    await rename(`${report}.tmp`, report)
    await note('publish')
    return { report }
  })
  return { published: true, by: actor, report }
})

await mkdir(out, { recursive: true })
const id = runId ?? (await tide.runs.create('research', { input: { folder: resolve(folder), out } })).id
console.log(id)
console.log(JSON.stringify(await tide.run(research, { runId: id })))
