import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { transform } from 'esbuild'
import { expect, onTestFinished, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { docs } from '../cli/docs.ts'
import { createOutput } from '../cli/output.ts'
import reference from '../reference.json' with { type: 'json' }
import { TpError } from '../src/errors.ts'
import { startTestPod } from './pod.ts'

interface Documented {
  name: string
  examples: string[]
  members?: Documented[]
}
const tools: Documented[] = reference.tools
const all = [...tools, ...tools.flatMap(({ members = [] }) => members)]
const examples = all.flatMap(({ name, examples }) => examples.map((code) => ({ name, code })))

test('every tool of the spec has its entry and its example', () => {
  for (const name of 'route page auth payments admin createUser users db files email http markdown html render secrets state publish background workflow enqueue runs redirect reply'.split(
    ' ',
  ))
    expect(tools.find((tool) => tool.name === `tp.${name}`)?.examples.length).toBeGreaterThan(0)
  for (const name of ['get', 'set', 'delete', 'prefix', 'keys', 'count', 'update', 'increment', 'setIfAbsent', 'batch'])
    expect(all.find((each) => each.name === `tp.db.${name}`)?.examples.length).toBeGreaterThan(0)
})

test.each(examples)('the example of $name runs: $code', async ({ code }) => {
  const dir = await mkdtemp(join(tmpdir(), 'tidepool-example-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  await mkdir(join(dir, 'templates'))
  await writeFile(join(dir, 'templates', 'post.html'), '{{ post.title }}')
  const tidebase = /tp\.(workflow|enqueue|runs)/.test(code) ? await startServer() : undefined
  if (tidebase) onTestFinished(() => tidebase.stop())
  const pod = await startTestPod((tp) => void tp.workflow('welcome', () => 'done'), {
    dir,
    ...(tidebase ? { tidebase: async () => ({ url: tidebase.url }) } : { tidebase: undefined }),
  })
  // What the examples take for granted.
  const given = {
    req: { user: null },
    user: { id: 'u1' },
    post: { title: 'x', body: 'y' },
    names: ['a'],
    id: 1,
    choice: 'a',
  }
  const { code: plain } = await transform(`(async () => {\n${code}\n})()`, { loader: 'ts', target: 'node20' })
  // Registered under that name already, by the line above.
  const runnable = plain.replace('tp.workflow("welcome"', 'tp.workflow("welcome2"')
  if (/tp\.auth\.required/.test(code)) pod.tp.auth = 'standard'
  const run = new Function('tp', ...Object.keys(given), `return ${runnable}`)
  const failed = await Promise.resolve(run(pod.tp, ...Object.values(given))).then(
    () => undefined,
    (error: unknown) => error,
  )
  // The addresses of the examples are nobody's; the client got as far as asking for them.
  if (code.includes('example.com/') && code.includes('tp.http')) expect(failed).toMatchObject({ code: 'http_failed' })
  else expect(failed).toBeUndefined()
})

test('tidepool docs prints the overview, a tool, an error, and says what there is', () => {
  const printed: unknown[] = []
  const output = {
    ...createOutput(false),
    result: (document: unknown, text: string) => void printed.push(document, text),
  }
  docs(undefined, output)
  docs('tp.db.update', output)
  docs('errors/rate_limited', output)
  expect(printed[1]).toContain('tp.payments')
  expect(printed[3]).toContain('await tp.db.update(')
  expect(printed[4]).toMatchObject({ code: 'rate_limited', status: 429 })
  expect(() => docs('databse', output)).toThrow(TpError)
})
