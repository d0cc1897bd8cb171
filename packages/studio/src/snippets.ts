// Programs and commands for people to copy.

/** Makes the first run of a project. */
export const firstRun = (url: string) => `import { Tidebase } from '@tidebase/sdk'
const tide = new Tidebase({ url: '${url}' })
const said = await tide.run('hello', async (run) => {
  const name = await run.step('think of a name', () => 'Ada')
  return run.step('greet', () => \`Hello, \${name}!\`)
})
console.log(said)`

/** Runs it. */
export const installAndRun = 'npm install @tidebase/sdk && node first.mjs'

/** A workflow asks a person. */
export const askingGate = `const { approved } = await run.gate('publish', 'Publish the report?', { data: report })`

/** What a run was made of, for who wants another. */
export interface Recipe {
  url: string
  workflowName: string
  input: unknown
  metadata: Record<string, unknown>
  queue: string | null
}

const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`

/** Makes the same run by curl. The key is the reader's to put in. */
export function asCurl({ url, workflowName, input, metadata, queue }: Recipe): string {
  const path =
    queue === null ? `/runs/${encodeURIComponent(workflowName)}` : `/queues/${encodeURIComponent(queue)}/enqueue`
  const body = { ...(queue !== null && { workflowName }), input, metadata }
  return `curl -X POST ${quoted(url + path)} \\
  -H "authorization: Bearer $TIDEBASE_API_KEY" -H 'content-type: application/json' \\
  -d ${quoted(JSON.stringify(body))}`
}

/** Makes the same run with the SDK for TypeScript. */
export function asTypeScript({ url, workflowName, input, metadata, queue }: Recipe): string {
  const options = JSON.stringify({ ...(queue !== null && { queue }), input, metadata }, null, 2)
  const made =
    queue === null
      ? `tide.runs.create(${JSON.stringify(workflowName)}, ${options})`
      : `tide.enqueue(${JSON.stringify(workflowName)}, ${options})`
  return `import { Tidebase } from '@tidebase/sdk'
const tide = new Tidebase({ url: ${JSON.stringify(url)} })
await ${made}`
}

/** Makes the same run with the SDK for Python. */
export function asPython({ url, workflowName, input, metadata, queue }: Recipe): string {
  const parse = (value: unknown) => `json.loads(${JSON.stringify(JSON.stringify(value))})`
  const options = `input=${parse(input)}, metadata=${parse(metadata)}`
  const made =
    queue === null
      ? `tide.runs.create(${JSON.stringify(workflowName)}, ${options})`
      : `tide.enqueue(${JSON.stringify(workflowName)}, queue=${JSON.stringify(queue)}, ${options})`
  return `import json
from tidebase import Tidebase
tide = Tidebase(url=${JSON.stringify(url)})
${made}`
}

/** Goes on with a run in a worker of one's own. */
export const resumeBy = (workflowName: string, id: string) =>
  `await tide.run(${JSON.stringify(workflowName)}, { runId: '${id}' }, workflow)`

/** A workflow writes down what a model call used. */
export const recordingUsage = `await run.usage({ model: 'large', inputTokens: 1200, outputTokens: 300, costUsd: 0.02 })`

/** A worker of a queue. */
export const worker = (url: string) => `import { Tidebase } from '@tidebase/sdk'
const tide = new Tidebase({ url: '${url}' })
tide.workflow('hello', (run, input) => run.step('greet', () => \`Hello, \${input.name}!\`))
await tide.work({ queues: ['default'] })`
