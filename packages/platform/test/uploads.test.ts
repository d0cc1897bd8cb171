import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { request } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { attacker, eventually, read } from './attacker.ts'
import { type Agent, type Live, startTestPlatform, type TestPlatform } from './harness.ts'

// Case 16: a source is a list of files by the hashes of their content. What could become anything but those files, in
// the pod's own folder, is refused before a byte is laid out.

let platform: TestPlatform
let agent: Agent
let live: Live
const content = attacker['main.ts']
const size = Buffer.byteLength(content)
const sha = (bytes: string | Buffer) => createHash('sha256').update(bytes).digest('hex')
const hash = sha(content)

beforeAll(async () => {
  platform = await startTestPlatform()
  agent = await platform.agent()
  live = await platform.deploy(agent, 'uploads', attacker)
})
afterAll(() => platform.stop())

/** Sends bytes as they are told to be sent. */
function put(
  name: string,
  bytes: Buffer,
  {
    headers = {},
    cutAt,
    chunked = false,
  }: { headers?: Record<string, string>; cutAt?: number; chunked?: boolean } = {},
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: '127.0.0.1',
        port: platform.port,
        path: `/api/pods/${live.id}/source/${name}`,
        method: 'PUT',
        headers: {
          authorization: `Bearer ${agent.key}`,
          ...(!chunked && { 'content-length': bytes.length }),
          ...headers,
        },
        agent: false,
      },
      (answer) => text(answer).then((body) => resolve({ status: answer.statusCode ?? 0, text: body }), reject),
    )
    sent.on('error', reject)
    if (cutAt === undefined) sent.end(bytes)
    else sent.write(bytes.subarray(0, cutAt), () => setTimeout(() => sent.destroy(new Error('cut off')), 50))
  })
}

const deploy = (files: unknown) => agent.call('POST', `/api/pods/${live.id}/deployments`, { files })
const stored = async (name: string) => (await agent.call('GET', `/api/pods/${live.id}/source/${name}`)).status
const deployments = async () =>
  read<{ deployments: unknown[] }>(await agent.call('GET', `/api/pods/${live.id}/deployments`)).deployments.length

describe('a list of files', () => {
  const fine = ['main.ts', hash, size] as const
  const entry = (path: string) => [path, hash, size] as const

  test.each([
    ['..', [entry('../main.ts')]],
    ['.. inside', [entry('a/../../main.ts')]],
    ['.. at the end', [entry('a/..')]],
    ['.', [entry('./main.ts')]],
    ['an absolute path', [entry('/etc/cron.d/x')]],
    ['NUL', [entry('main.ts\u0000.txt')]],
    ['a control character', [entry('a\nb')]],
    ['a backslash', [entry('..\\main.ts')]],
    ['a drive', [entry('C:\\main.ts')]],
    ['an empty segment', [entry('a//b')]],
    ['a folder', [entry('a/')]],
    ['half of a surrogate pair', [entry('a\ud800')]],
    ['the platform’s own folder', [entry('tp_data/build/main.mjs')]],
    ['packages', [entry('node_modules/tidepool/index.js')]],
    ['two of one name', [entry('a'), entry('a')]],
    ['names that differ in case only', [entry('Lib/a.ts'), entry('lib/A.ts')]],
    ['names that differ in composition only', [entry('caf\u00e9.ts'), entry('cafe\u0301.ts')]],
    ['a file that is a folder too', [entry('a'), entry('a/b')]],
    ['a file that is a folder in other case', [entry('A'), entry('a/b')]],
    ['a path that is too long', [entry('a'.repeat(513))]],
    ['a link', [['link', hash, size, '/etc/passwd']]],
    ['a link as an object', [{ path: 'link', target: '/etc/passwd' }]],
    ['a negative size', [['a', hash, -1]]],
    ['half a byte', [['a', hash, 0.5]]],
    ['a size without end', [['a', hash, 1e308]]],
    [
      'one content with two sizes',
      [
        ['a', hash, 0],
        ['b', hash, size],
      ],
    ],
    ['a hash that is a path', [['a', '../../../../etc/passwd', 1]]],
    ['a hash in capitals', [['a', hash.toUpperCase(), size]]],
    ['nothing', []],
    ['no list', { length: 1, 0: fine }],
  ])('with %s is refused', async (_what, files) => {
    const before = await deployments()
    const list = Array.isArray(files) && files.length > 0 ? [fine, ...files] : files
    const answer = await deploy(list)
    expect([answer.status, answer.body.code]).toEqual([
      expect.toBeOneOf([400, 413]),
      expect.toBeOneOf(['invalid', 'too_large']),
    ])
    expect(await deployments()).toBe(before)
  })

  test('with 100,000 tiny files is refused at once', async () => {
    const many = Array.from({ length: 100_000 }, (_, at) => [`f/${at}`, hash, size])
    expect((await deploy(many)).status).toBe(400)
  })

  test('with sizes that are not those of the content is refused, smaller and larger', async () => {
    for (const lie of [0, size - 1, size + 1])
      expect(await deploy([['main.ts', hash, lie]])).toMatchObject({ status: 409, body: { code: 'missing_files' } })
  })

  test('with more bytes in all than a pod may have is refused, though each is small enough', async () => {
    const big = Array.from({ length: 11 }, (_, at) => [`f${at}`, sha(String(at)), 50 * 1024 * 1024])
    expect(await deploy(big)).toMatchObject({ status: 413 })
    expect(await deploy([['f', hash, 50 * 1024 * 1024 + 1]])).toMatchObject({ status: 400 })
  })

  test('nested as deep as its length allows is laid out, and nothing lies beside the release', async () => {
    const deep = `${'d/'.repeat(200)}x.txt`
    const next = await platform.deploy(agent, 'uploads', { ...attacker, [deep]: 'deep' })
    const releases = join(platform.dir, 'releases')
    expect(await readdir(releases)).toEqual([live.id])
    const release = join(releases, live.id, next.deployment)
    expect((await readdir(release)).sort()).toEqual(['d', 'main.ts', 'node_modules', 'tp_data'])
    for (const entry of await readdir(release, { recursive: true, withFileTypes: true }))
      expect([entry.name, entry.isSymbolicLink()]).toEqual([entry.name, false])
  })
})

describe('an upload', () => {
  test('of other bytes than its name says is refused and not kept, and what is there stays', async () => {
    const bytes = Buffer.from('some content')
    expect((await put(sha('other content'), bytes)).status).toBe(400)
    expect(await stored(sha('other content'))).toBe(404)
    expect((await put(hash, bytes)).status).toBe(400)
    expect((await agent.call('GET', `/api/pods/${live.id}/source/${hash}`)).text).toBe(content)
  })

  test('that is cut off is not kept', async () => {
    const bytes = Buffer.alloc(400_000, 'x')
    await expect(put(sha(bytes), bytes, { cutAt: 200_000 })).rejects.toThrow('cut off')
    // Chunked, so that nothing says how long it should be: refused before it is read.
    const chunked = { 'transfer-encoding': 'chunked' }
    expect((await put(sha(bytes), bytes, { chunked: true, headers: chunked })).status).toBe(400)
    expect(await stored(sha(bytes))).toBe(404)
    expect(await deploy([['main.ts', sha(bytes), bytes.length]])).toMatchObject({ status: 409 })
    const leftovers = async () => {
      const all = await readdir(join(platform.dir, 'storage'), { recursive: true, withFileTypes: true })
      return all.filter((entry) => entry.isFile() && `${entry.parentPath}/${entry.name}`.includes(sha(bytes)))
    }
    await eventually(leftovers, ({ length }) => length === 0)
  })

  test('is never unpacked: a compression bomb stays what was sent', async () => {
    const bomb = gzipSync(Buffer.alloc(20_000_000))
    for (const encoding of ['gzip', 'GZIP', 'br', 'deflate', 'identity, gzip'])
      expect((await put(sha(bomb), bomb, { headers: { 'content-encoding': encoding } })).status).toBe(400)
    expect(await put(sha(bomb), bomb)).toMatchObject({
      status: 200,
      text: expect.stringContaining(`"size":${bomb.length}`),
    })
    const body = await platform.call('POST', `/api/pods/${live.id}/deployments`, {
      key: agent.key,
      body: bomb.toString('latin1'),
    })
    expect(body.status).toBe(400)
  })

  test('under a name that is no hash is refused', async () => {
    for (const name of ['x', '..%2f..%2fx', `${hash}x`, hash.toUpperCase(), `${hash.slice(0, 63)}%00`])
      expect([name, (await put(name, Buffer.from('x'))).status]).toEqual([name, 400])
    expect((await put(`${hash}/x`, Buffer.from('x'))).status).toBe(404)
  })

  test('larger than a file may be is refused', async () => {
    const bytes = Buffer.alloc(50 * 1024 * 1024 + 1)
    const refused = await put(sha(bytes), bytes).catch((error: Error) => ({ status: 413, text: error.message }))
    expect(refused.status).toBe(413)
    expect(await stored(sha(bytes))).toBe(404)
  })

  test('leaves the pod and the platform as they were', async () => {
    expect((await platform.fetchPod('uploads')).status).toBe(200)
    expect((await agent.call('GET', '/api/me')).status).toBe(200)
  })
})
