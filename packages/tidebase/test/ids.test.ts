import { expect, test } from 'vitest'
import { newId } from '../src/ids.ts'

test('new ids are UUIDv7 of this moment, each greater than the one before', () => {
  const from = Date.now()
  const ids = Array.from({ length: 50_000 }, newId)
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$/)
  expect(ids.toSorted()).toEqual(ids)
  expect(new Set(ids.map((id) => id.slice(16))).size).toBe(ids.length)
  expect(Number.parseInt(ids[0]?.slice(0, 12) ?? '', 16)).toBeGreaterThanOrEqual(from)
  // More than a millisecond's worth of them borrow from the next.
  expect(Number.parseInt(ids.at(-1)?.slice(0, 12) ?? '', 16)).toBeLessThan(Date.now() + 1_000)
})
