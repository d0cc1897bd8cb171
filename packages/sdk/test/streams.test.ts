import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startServer } from '../../../test/server.ts'
import { delay } from '../src/abort.ts'
import type { StreamChunk } from '../src/index.ts'
import { watched } from './helpers.ts'

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop(500))

/** The text of a stream as its watchers have it: what begins at 0 starts over. */
function textOf(chunks: StreamChunk[], name: string): string {
  let text = ''
  for (const { stream, offset, chunk } of chunks) {
    if (stream === name) text = [...text].slice(0, offset).join('') + chunk
  }
  return text
}

test('a step streams while it runs, in few calls; its watchers see it before the output', async () => {
  const { tide, requests } = watched(server)
  const { id } = await tide.runs.create('writer')
  const chunks: StreamChunk[] = []
  const seen: string[] = []
  const following = (async () => {
    for await (const { type } of tide.runs.subscribe(id, { onChunk: (chunk) => chunks.push(chunk) })) {
      if (type === 'step.completed') seen.push(textOf(chunks, 'write'))
    }
  })()
  const words = Array.from({ length: 100 }, (_, n) => `wörd${n} 🌊 `)
  const output = await tide.run('writer', { runId: id }, (run) =>
    run.step('write', async ({ stream }) => {
      for (const word of words) {
        // Tokens of a model may end in the middle of a character.
        for (const half of [word.slice(0, -2), word.slice(-2)]) stream(half)
        await delay(2)
      }
      await vi.waitFor(() => expect(textOf(chunks, 'write')).toBe(words.join('')), { timeout: 10_000 })
      return words.join('')
    }),
  )
  await following
  expect(output).toBe(words.join(''))
  expect(seen).toEqual([words.join('')])
  expect(requests.filter((request) => request.includes('/stream')).length).toBeLessThan(40)
})

test('a second attempt starts the text over, and a stream outside of steps is closed by hand', async () => {
  const { tide } = watched(server)
  const { id } = await tide.runs.create('writer')
  const chunks: StreamChunk[] = []
  const following = (async () => {
    for await (const _ of tide.runs.subscribe(id, { onChunk: (chunk) => chunks.push(chunk) })) {
      // Only the chunks matter.
    }
  })()
  await tide.run('writer', { runId: id }, async (run) => {
    await run.step('write', { retries: 1, backoffMs: 1 }, async ({ stream, attempt }) => {
      const text = attempt === 1 ? 'the first attempt' : 'second'
      stream(text)
      await vi.waitFor(() => expect(textOf(chunks, 'write')).toBe(text), { timeout: 10_000 })
      if (attempt === 1) throw new Error('no')
    })
    const notes = run.stream('notes')
    notes.write('one ')
    notes.write('two')
    await notes.close()
    notes.write('never')
    await vi.waitFor(() => expect(textOf(chunks, 'notes')).toBe('one two'), { timeout: 10_000 })
    await delay(100)
  })
  await following
  expect(textOf(chunks, 'notes')).toBe('one two')
})
