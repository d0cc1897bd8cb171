import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openStorage, StorageError } from '../src/storage.ts'
import { bytes, codeOf, storageConformance } from './storage-conformance.ts'

const temporary = () => mkdtemp(join(tmpdir(), 'tidepool-storage-'))

storageConformance('storage on a disk', async () => {
  const dir = await temporary()
  return { open: () => openStorage({ dir }), remove: () => rm(dir, { recursive: true }) }
})

describe('the folder of a storage', () => {
  let dir: string
  beforeEach(async () => {
    dir = await temporary()
  })
  afterEach(() => rm(dir, { recursive: true }))
  const files = async () =>
    (await readdir(dir, { recursive: true, withFileTypes: true }))
      .filter((each) => each.isFile())
      .map((each) => join(each.parentPath, each.name).slice(dir.length + 1))

  test('holds every key under a name that no disk mistakes for another', async () => {
    const storage = await openStorage({ dir: join(dir, 'made', 'for', 'it') })
    await storage.put('Photos/cat.jpg', Buffer.from('x'))
    await storage.put('photos/é..', Buffer.from('x'))
    await storage.put('x'.repeat(450), Buffer.from('x'))
    const names = await files()
    expect(names).toContain('made/for/it/objects/%50hotos,/cat.jpg=')
    expect(names).toContain('made/for/it/objects/photos,/%c3%a9..=')
    for (const each of names.flatMap((name) => name.split('/'))) {
      expect(each).toMatch(/^[a-z0-9._%-]*[=,+]?$/)
      expect(each.length).toBeLessThan(255)
    }
    await storage.close()
  })

  test('is empty again when everything was deleted, given up or refused', async () => {
    const storage = await openStorage({ dir })
    await storage.put('a/b/c', Buffer.from('x'))
    await storage.put(`a/${'d'.repeat(500)}/e`, Buffer.from('x'))
    expect(await codeOf(storage.put('a/b/c', bytes(10), { maxBytes: 1 }))).toBe('too_large')
    expect(await storage.deletePrefix('a')).toBe(2)
    await storage.put('f/g', Buffer.from('x'))
    await storage.delete('f/g')
    expect((await readdir(dir, { recursive: true })).sort()).toEqual(['incoming', 'objects'])
    await storage.close()
  })

  test('ignores what others put there, and clears what a crash left', async () => {
    await mkdir(join(dir, 'objects', 'x'), { recursive: true })
    await mkdir(join(dir, 'incoming'))
    await writeFile(join(dir, 'objects', 'x', 'readme.txt'), 'x')
    await writeFile(join(dir, 'incoming', 'old'), 'x')
    await writeFile(join(dir, 'incoming', 'new'), 'x')
    const longAgo = new Date(Date.now() - 48 * 3600_000)
    await utimes(join(dir, 'incoming', 'old'), longAgo, longAgo)
    const storage = await openStorage({ dir })
    expect(await storage.list('')).toEqual([])
    expect(await readdir(join(dir, 'incoming'))).toEqual(['new'])
    await storage.close()
  })

  test('that cannot be one is an error with a hint', async () => {
    await writeFile(join(dir, 'file'), 'x')
    const error: unknown = await openStorage({ dir: join(dir, 'file') }).catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(StorageError)
    expect(error).toMatchObject({ code: 'storage', hint: expect.stringContaining('folder') })
  })
})
