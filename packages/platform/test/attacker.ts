// A pod that does whatever a test tells it to: what an attacker may deploy, with the code sent at each call.
import type { Reply, TestPlatform } from './harness.ts'

/** The source of such a pod. */
export const attacker = {
  'main.ts': `import { createRequire } from 'node:module'
import tp from 'tidepool'
const require = createRequire(import.meta.url)
const Code = (async () => {}).constructor
tp.page('/', 'the app answers')
tp.route('/run', { methods: ['POST'] }, async (req) => {
  try {
    return { value: (await Code('tp', 'require', 'req', req.json.code)(tp, require, req)) ?? null }
  } catch (error) {
    return { error: String(error?.message ?? error), code: String(error?.code ?? ''), cause: String(error?.cause?.message ?? '') }
  }
})
`,
}

/** What became of the code: its value, or what it threw. */
export interface Outcome {
  status: number
  value?: unknown
  error?: string
  code?: string
  /** The message of the error's cause. */
  cause?: string
}

/** Runs `code` (the body of an async function with `tp`, `require` and `req`) in the pod `name`. */
export async function runInPod(platform: TestPlatform, name: string, code: string): Promise<Outcome> {
  const { status, text }: Reply = await platform.fetchPod(name, '/run', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ code }),
  })
  try {
    return { ...JSON.parse(text), status }
  } catch {
    return { status, error: text }
  }
}

/** Code that asks the platform's socket, as `ask(path, {method, token, body, headers})` → {status, text}. */
export const askSocket = `
const ask = (path, { method = 'GET', token = process.env.TIDEPOOL_TOKEN, body, headers = {} } = {}) =>
  new Promise((resolve, reject) => {
    const sent = require('node:http').request(
      {
        socketPath: process.env.TIDEPOOL_PLATFORM, path, agent: false,
        method: body === undefined ? method : method === 'GET' ? 'POST' : method,
        headers: { host: 'platform', authorization: 'Bearer ' + token, 'content-type': 'application/json', ...headers },
      },
      (answer) => {
        let text = ''
        answer.setEncoding('utf8')
        answer.on('data', (chunk) => { text += chunk })
        answer.on('end', () => resolve({ status: answer.statusCode, text }))
      },
    )
    sent.on('error', reject)
    sent.end(body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body))
  })
`

/** Asks again until `holds`. @throws Error when it never does */
export async function eventually<T>(ask: () => Promise<T>, holds: (value: T) => boolean, ms = 20_000): Promise<T> {
  const end = Date.now() + ms
  for (;;) {
    const value = await ask()
    if (holds(value)) return value
    if (Date.now() > end) throw new Error(`It never came: ${JSON.stringify(value)?.slice(0, 2_000)}`)
    await new Promise((done) => setTimeout(done, 50))
  }
}

/** The answer's JSON, as the type that the test expects. */
export function read<T>({ text }: Reply): T {
  const body: T = JSON.parse(text)
  return body
}
