// Both ways a request may leave, against a real server.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { delay } from '../src/abort.ts'
import { Tidebase } from '../src/index.ts'
import { restartable, signalled } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop(500))

describe.each([
  ['Node’s dispatcher', {}],
  ['a fetch of the caller', { fetch: (url: string, init: RequestInit) => fetch(url, init) }],
])('over %s', (_, options) => {
  const client = (url = server.url) => new Tidebase({ url, timeoutMs: 3_000, ...options })

  test('text of any script and size arrives as it was sent', async () => {
    const text = 'ü中😀\u2028"\\ '.repeat(100_000)
    const tide = client()
    const { id, workflowName } = await tide.runs.create('a/b c?d=ü😀', { input: { text } })
    expect(workflowName).toBe('a/b c?d=ü😀')
    expect((await tide.runs.get(id, { include: ['run'] })).run.input).toEqual({ text })
    expect(await tide.run('a/b c?d=ü😀', { runId: id }, (run) => run.step('x', () => text))).toBe(text)
    const { steps } = await tide.runs.get(id, { include: ['steps'] })
    expect(steps[0]?.output).toBe(text)
  })

  test('an error answer is read and typed', async () => {
    await expect(client().schedules.delete('none')).rejects.toMatchObject({ status: 404, code: 'schedule_not_found' })
    await expect(client().runs.get('nonsense')).rejects.toMatchObject({ status: 404, code: 'run_not_found' })
  })

  test('an address that is no Tidebase is told so', async () => {
    await expect(client(`${server.url}/elsewhere`).runs.list()).rejects.toMatchObject({ code: 'route_not_found' })
  })

  test('a signal breaks a waiting call off at once', async () => {
    const tide = client()
    const { id } = await tide.runs.create('waits')
    const session = await tide.runs.attach(id)
    const { gate } = await session.run.gates.begin('g', 'Well?')
    const waiting = session.run.gates.get(gate.id, { waitMs: 20_000 })
    await delay(100)
    const at = performance.now()
    session.detach()
    await expect(waiting).rejects.toMatchObject({ code: 'run_ended' })
    expect(performance.now() - at).toBeLessThan(10_000)
  })

  test('events stream as they happen, and leaving closes the stream', async () => {
    const tide = client()
    const { id } = await tide.runs.create('streams')
    const begun = signalled()
    const seen: string[] = []
    const following = (async () => {
      for await (const event of tide.runs.subscribe(id)) {
        seen.push(event.type)
        begun.done()
        if (event.type === 'state.updated') break
      }
    })()
    await begun.promise
    const session = await tide.runs.attach(id)
    await session.run.state.set('ü😀'.repeat(10_000))
    await following
    expect(seen).toEqual(['run.created', 'run.started', 'state.updated'])
    session.detach()
  })

  test('a slow reader gets every event of a long stream', async () => {
    const tide = client()
    const { id } = await tide.runs.create('slow reader')
    const session = await tide.runs.attach(id)
    const text = 'ü😀'.repeat(15_000)
    for (let n = 0; n < 20; n++) await session.run.state.set({ n, text })
    const seen: number[] = []
    for await (const event of tide.runs.subscribe(id)) {
      seen.push(event.seq)
      if (seen.length < 8) await delay(50)
      if (event.seq === 22) break
    }
    expect(seen).toEqual(Array.from({ length: 22 }, (_, n) => n + 1))
    session.detach()
  })

  test('connections of a server that is gone are not an error for long', async () => {
    const service = await restartable()
    const tide = client(service.url)
    const { id } = await tide.runs.create('back')
    await service.stop()
    const reading = tide.runs.get(id)
    await delay(200)
    await service.start()
    expect((await reading).run.id).toBe(id)
    await service.end()
  })
})

test('what a program sets up for its fetch, such as a proxy, holds for its calls too', async () => {
  const name = Symbol.for('undici.globalDispatcher.1')
  await fetch(`${server.url}/health`)
  const nodes: unknown = Reflect.get(globalThis, name)
  const asked: unknown[] = []
  const own = {
    dispatch(request: { path: string }, handler: unknown) {
      asked.push(request.path)
      return Reflect.apply(Reflect.get(Object(nodes), 'dispatch'), nodes, [request, handler])
    },
  }
  Reflect.set(globalThis, name, own)
  try {
    await new Tidebase({ url: server.url }).runs.create('proxied')
  } finally {
    Reflect.set(globalThis, name, nodes)
  }
  expect(asked).toEqual(['/runs/proxied'])
})
