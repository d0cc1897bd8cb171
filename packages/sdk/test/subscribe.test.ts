import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { delay } from '../src/abort.ts'
import { newRunId } from '../src/index.ts'
import { restartable, signalled, watched } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop(500))

test('backlog, then live, then the end', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('followed')
  const types: string[] = []
  const following = (async () => {
    for await (const event of tide.runs.subscribe(id)) types.push(`${event.seq} ${event.type}`)
  })()
  await delay(50)
  await tide.run('followed', { runId: id }, async (run) => {
    await run.step('a', () => 1)
    await run.state.set({ x: 1 })
  })
  await following
  const all = [
    '1 run.created',
    '2 run.started',
    '3 step.started',
    '4 step.completed',
    '5 state.updated',
    '6 run.completed',
  ]
  expect(types).toEqual(all)

  const later: string[] = []
  for await (const event of tide.runs.subscribe(id, { after: 4 })) later.push(`${event.seq} ${event.type}`)
  expect(later).toEqual(all.slice(4))
  for await (const event of tide.runs.subscribe(id, { after: 6 })) expect(event).toBeUndefined()
})

test('a failed run that was resumed is followed to its real end', async () => {
  const { tide } = watched(server)
  let id = ''
  await tide
    .run('twice', (run) => {
      id = run.id
      throw new Error('first')
    })
    .catch(() => undefined)
  await tide.run('twice', { runId: id }, () => 2)
  const types: string[] = []
  for await (const event of tide.runs.subscribe(id)) types.push(event.type)
  expect(types).toEqual(['run.created', 'run.started', 'run.failed', 'run.started', 'run.completed'])
})

test('leaving the loop, and a signal, end the subscription', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('left')
  for await (const event of tide.runs.subscribe(id)) {
    expect(event.type).toBe('run.created')
    break
  }
  const stop = new AbortController()
  const first = signalled()
  const following = (async () => {
    for await (const _ of tide.runs.subscribe(id, { signal: stop.signal })) first.done()
  })()
  await first.promise
  stop.abort(new Error('enough'))
  await expect(following).rejects.toThrow('enough')
})

test('a run that is not there', async () => {
  const { tide } = watched(server)
  await expect(tide.runs.subscribe(newRunId()).next()).rejects.toMatchObject({ code: 'run_not_found' })
})

test('a restarted server: no event is lost, none comes twice, and the run goes on', async () => {
  const service = await restartable()
  const { tide } = watched(service, { timeoutMs: 3_000 })
  const { id } = await tide.runs.create('restarted')
  const seqs: number[] = []
  const half = signalled()
  const following = (async () => {
    for await (const event of tide.runs.subscribe(id)) {
      seqs.push(event.seq)
      if (event.seq === 5) half.done()
    }
  })()
  const session = await tide.runs.attach(id)
  for (let n = 0; n < 3; n++) await session.run.state.set(n)
  await half.promise
  await service.stop()
  const during = session.run.state.set('while it is away')
  await delay(500)
  await service.start()
  await during
  await session.run.state.set('after')
  await session.complete()
  await following
  expect(seqs).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
  await service.end()
})

test('wait: for the end, or until the time is up', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('awaited')
  await expect(tide.runs.wait(id, { timeoutMs: 50 })).rejects.toMatchObject({ code: 'wait_timeout' })
  const waiting = tide.runs.wait(id)
  await tide.run('awaited', { runId: id }, () => 'done')
  expect(await waiting).toMatchObject({ status: 'completed', result: 'done' })
  expect(await tide.runs.wait(id)).toMatchObject({ status: 'completed' })
})

test('everything that happens in the project is followed, and resumed by id', async () => {
  const own = await startServer()
  const { tide } = watched(own)
  const seen: { id: number; runId: string }[] = []
  const first = await tide.runs.create('one')
  const second = await tide.runs.create('two')
  for await (const event of tide.events()) {
    seen.push(event)
    if (seen.length === 2) break
  }
  expect(seen.map(({ runId }) => runId)).toEqual([first.id, second.id])
  for await (const event of tide.events({ after: seen[0]?.id ?? 0 })) {
    expect(event).toEqual(seen[1])
    break
  }
  const gone = new AbortController()
  gone.abort(new Error('enough'))
  await expect(tide.events({ signal: gone.signal }).next()).rejects.toThrow('enough')
  await own.stop(500)
})
