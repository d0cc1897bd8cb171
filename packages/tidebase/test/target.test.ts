import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo, LookupFunction } from 'node:net'
import { request } from 'undici'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { guardedAgent, isPublic } from '../src/target.ts'

let hits = 0
const inside = createServer((_, response) => {
  hits++
  response.end('secret')
})
let port = 0
beforeAll(async () => {
  inside.listen(0, '127.0.0.1')
  await once(inside, 'listening')
  port = (inside.address() as AddressInfo).port
})
afterAll(() => {
  inside.closeAllConnections()
  inside.close()
})

/** A name server that answers these addresses, one set per look-up, the last for ever. */
const names = (...answers: string[][]): LookupFunction => {
  let nth = 0
  return (_, options, callback) => {
    const found = (answers[Math.min(nth++, answers.length - 1)] ?? []).map((address) => ({
      address,
      family: address.includes(':') ? 6 : 4,
    }))
    const [first] = found
    if (options.all) callback(null, found)
    else callback(null, first?.address ?? '', first?.family ?? 4)
  }
}

test.each([
  ['a name of a loopback address', names(['127.0.0.1'])],
  ['a name with one private address among public ones', names(['93.184.215.14', '10.0.0.1'])],
  ['a name that has only a private IPv6 address', names(['::1'])],
  ['a name of a mapped address', names(['::ffff:127.0.0.1'])],
  ['a name that is rebound after the first look', names(['127.0.0.1'], ['93.184.215.14'])],
])('%s is not connected to', async (_, lookup) => {
  const agent = await guardedAgent(false, { lookup, timeoutMs: 1_000 })
  await expect(request(`http://evil.example:${port}/`, { dispatcher: agent })).rejects.toThrow('not a public address')
  await agent.destroy()
  expect(hits).toBe(0)
})

test('a literal address is checked although no name is looked up', async () => {
  const agent = await guardedAgent(false, { timeoutMs: 1_000 })
  for (const host of ['127.0.0.1', '[::ffff:127.0.0.1]', '0.0.0.0']) {
    await expect(request(`http://${host}:${port}/`, { dispatcher: agent })).rejects.toThrow('not a public address')
  }
  await agent.destroy()
  expect(hits).toBe(0)
})

test('private addresses are reached when the operator allows them', async () => {
  const agent = await guardedAgent(true, { lookup: names(['127.0.0.1']), timeoutMs: 1_000 })
  const response = await request(`http://here.example:${port}/`, { dispatcher: agent })
  expect(await response.body.text()).toBe('secret')
  await agent.destroy()
})

test.each([
  ['93.184.215.14', true],
  ['2606:4700::1111', true],
  ['100.64.0.1', false],
  ['169.254.169.254', false],
  ['192.0.2.1', false],
  ['224.0.0.1', false],
  ['255.255.255.255', false],
  ['::', false],
  ['::7f00:1', false],
  ['64:ff9b::7f00:1', false],
  ['4000::1', false],
  ['5f00::1', false],
  ['2001:db8::1', false],
  ['fec0::1', false],
  ['fe80::1%eth0', false],
  ['::ffff:8.8.8.8', true],
  ['2002:7f00:1::', false],
  ['not an address', false],
])('isPublic(%s) is %s', (address, expected) => {
  expect(isPublic(address)).toBe(expected)
})
