// What needs no server: configuration, ids, waiting, and the errors of a server that is not there.
import { createServer } from 'node:net'
import { afterEach, expect, test, vi } from 'vitest'
import { backoff, delay, onAbort } from '../src/abort.ts'
import { newRunId, Tidebase, TidebaseError, UnreachableError } from '../src/index.ts'
import { errorText } from '../src/thrown.ts'

afterEach(() => vi.unstubAllEnvs())

test('the environment names server and key; what is given wins', () => {
  vi.stubEnv('TIDEBASE_URL', 'https://tide.example/base/')
  expect(new Tidebase().url).toBe('https://tide.example/base')
  expect(new Tidebase({ url: 'http://localhost:1' }).url).toBe('http://localhost:1')
  vi.stubEnv('TIDEBASE_URL', '')
  expect(new Tidebase().url).toBe('http://127.0.0.1:7373')
})

test.each(['nonsense', 'ftp://x', 'localhost:7373'])('%s is not an address', (url) => {
  expect(() => new Tidebase({ url })).toThrow(expect.objectContaining({ code: 'invalid_url' }))
})

test('a malformed key is refused without being shown', () => {
  const attempt = () => new Tidebase({ apiKey: 'tide_secret\nhost: evil' })
  expect(attempt).toThrow(expect.objectContaining({ code: 'invalid_api_key' }))
  expect(attempt).toThrow(expect.not.stringContaining('secret'))
  expect(() => new Tidebase({ apiKey: ' tide_secret\n' })).not.toThrow()
})

test('run ids are well formed, unique, and sort by time', async () => {
  const first = newRunId()
  expect(first).toMatch(/^run_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$/)
  await delay(2)
  const later = Array.from({ length: 1_000 }, newRunId)
  expect(new Set(later).size).toBe(1_000)
  for (const id of later) expect(id > first).toBe(true)
})

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  return typeof address === 'object' && address ? address.port : 0
}

test.each<[string, (tide: Tidebase) => Promise<unknown>]>([
  ['a list', (tide) => tide.runs.list()],
  ['a run', (tide) => tide.run('w', () => 1)],
  ['two jobs at once', (tide) => Promise.all([tide.enqueue('w'), tide.enqueue('w')])],
])('%s of a server that is not there is an error that says where and what to do, soon', async (_, call) => {
  const url = `http://127.0.0.1:${await freePort()}`
  const started = performance.now()
  const error = await call(new Tidebase({ url })).catch((thrown: unknown) => thrown)
  expect(performance.now() - started).toBeLessThan(20_000)
  expect(error).toBeInstanceOf(UnreachableError)
  expect(error).toMatchObject({
    message: `Cannot reach Tidebase at ${url}: connection refused.`,
    code: 'unreachable',
    status: 0,
    hint: expect.stringContaining('npx tidebase start'),
  })
})

test('a server that accepts and says nothing is given up after the time limit', async () => {
  const sockets = new Set<{ destroy(): void }>()
  const server = createServer((socket) => void sockets.add(socket)).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const address = server.address()
  const url = `http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}`
  const tide = new Tidebase({ url, timeoutMs: 100, retryForMs: 0 })
  await expect(tide.runs.list()).rejects.toThrow(`Cannot reach Tidebase at ${url}: no answer within 100 ms.`)
  for (const socket of sockets) socket.destroy()
  await new Promise((resolve) => server.close(resolve))
})

test('an input that is not JSON is an error of its own', async () => {
  const cycle: { self?: unknown } = {}
  cycle.self = cycle
  await expect(new Tidebase().runs.create('x', { input: cycle })).rejects.toMatchObject({ code: 'not_json' })
})

test.each(['', '.', '..', '\ud800'])('%j names nothing', async (name) => {
  await expect(new Tidebase().runs.get(name)).rejects.toMatchObject({ code: 'invalid_name' })
  await expect(new Tidebase().runs.create(name)).rejects.toMatchObject({ code: 'invalid_name' })
})

test('a workflow nobody registered is named, before anything is created', async () => {
  const tide = new Tidebase({ url: 'http://127.0.0.1:1' })
  tide.workflow('known', () => 1)
  await expect(tide.run('unknown')).rejects.toMatchObject({
    code: 'workflow_not_registered',
    hint: expect.stringContaining('Registered: known.'),
  })
})

test('waiting ends at once when the signal aborts', async () => {
  const stop = new AbortController()
  const waiting = delay(60_000, stop.signal)
  stop.abort(new Error('enough'))
  await expect(waiting).rejects.toThrow('enough')
  await expect(delay(60_000, stop.signal)).rejects.toThrow('enough')
})

test('many callbacks share one listener and can be taken away', () => {
  const stop = new AbortController()
  const listened = vi.spyOn(stop.signal, 'addEventListener')
  const called: number[] = []
  const take = Array.from({ length: 50 }, (_, n) => onAbort(stop.signal, () => void called.push(n)))
  for (const each of take.slice(1)) each()
  stop.abort()
  expect(called).toEqual([0])
  expect(listened).toHaveBeenCalledTimes(1)
})

test('the pause doubles up to its cap, with jitter', () => {
  for (let attempt = 0; attempt < 40; attempt++) {
    const full = Math.min(100 * 2 ** attempt, 5_000)
    const pause = backoff(attempt)
    expect(pause).toBeGreaterThanOrEqual(full / 2)
    expect(pause).toBeLessThanOrEqual(full)
  }
})

test('the text of an error is its name and message, whatever was thrown', () => {
  expect(errorText(new Error('boom'))).toBe('boom')
  expect(errorText(new TypeError('boom'))).toBe('TypeError: boom')
  expect(errorText(new Error(''))).toBe('Error')
  expect(errorText(new TidebaseError('boom', { code: 'x', hint: 'y' }))).toBe('boom')
  expect(errorText('text')).toBe('text')
  expect(errorText({ code: 1 })).toBe('{"code":1}')
  expect(errorText(undefined)).toBe('undefined')
  expect(errorText(Object.create(null))).toBe('{}')
  expect(errorText(10n)).toBe('[object BigInt]')
  expect(errorText('x'.repeat(20_000))).toHaveLength(10_000)
})
