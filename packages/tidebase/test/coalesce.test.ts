import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Coalescers, statement } from '../src/coalesce.ts'
import type { Database, Queryable } from '../src/db.ts'

/** A database that answers when it is told to, and says how many statements wait for that. */
function slowDatabase() {
  const waiting: { calls: object[]; answer: () => void }[] = []
  const hot: Pick<Queryable, 'query'> = {
    query: (_text, [calls] = []) =>
      new Promise((resolve) => {
        const asked: object[] = JSON.parse(String(calls))
        const rows = asked.map((_, n) => ({ i: n + 1, action: 'done' }))
        waiting.push({ calls: asked, answer: () => resolve(rows as never) })
      }),
  }
  return { waiting, coalescers: new Coalescers({ hot } as Database) }
}

const some = statement<object, object>('some', [], 'select 1')
const large = statement<object, object>('large', [], 'select 1', { most: 1 })

test('two statements of a kind are under way, one of a group; what waits leaves together', async () => {
  for (const [group, atOnce] of [
    ['', 2],
    ['queue', 1],
  ] as const) {
    const { waiting, coalescers } = slowDatabase()
    const done: Promise<unknown>[] = []
    for (let n = 0; n < 5; n++) {
      done.push(coalescers.submit(some, { n: 0 }, group))
      await setImmediate()
      await setImmediate()
    }
    expect(waiting).toHaveLength(atOnce)
    waiting.shift()?.answer()
    await done[0]
    await setImmediate()
    await setImmediate()
    expect(waiting).toHaveLength(atOnce)
    expect(waiting.at(-1)?.calls).toHaveLength(5 - atOnce)
    for (const { answer } of waiting) answer()
    await Promise.all(done)
  }
})

test('a group does not wait for another, and a call that is much leaves alone', async () => {
  const { waiting, coalescers } = slowDatabase()
  const done = ['a', 'b', 'c'].map((group) => coalescers.submit(some, { n: 0 }, group))
  done.push(...[1, 2, 3].map(() => coalescers.submit(large, { n: 0 })))
  await setImmediate()
  await setImmediate()
  expect(waiting.map(({ calls }) => calls.length)).toEqual([1, 1, 1, 1, 1])
  while (waiting.length > 0) {
    waiting.shift()?.answer()
    await setImmediate()
    await setImmediate()
  }
  await Promise.all(done)
})
