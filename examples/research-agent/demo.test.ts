import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

test('the demo kills the agent in the middle, and no finished step runs again', { timeout: 90_000 }, async () => {
  const demo = fileURLToPath(new URL('demo.ts', import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, ['--conditions=source', '--import', 'tsx', demo], {
    env: { ...process.env, DATABASE_URL: '' },
  })
  expect(stdout).toContain('No step that was done before the kill ran again.')
  expect(stdout).toContain('status: completed')
})
