import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

// So that none rots. What they measure is no test's business.
test.each([
  ['steps', 'tidebase, '],
  ['queue', 'tidebase, '],
  ['waits', 'parked runs'],
  ['pod', '| pod |'],
])('the benchmark %s runs', { timeout: 120_000 }, async (name, says) => {
  const program = fileURLToPath(new URL('../bench/run.ts', import.meta.url))
  const args = ['--conditions=source', '--import', 'tsx', program, name, '--quick', '--no-peers']
  const { stdout } = await promisify(execFile)(process.execPath, args)
  expect(stdout).toContain(says)
  expect(stdout).not.toContain('NaN')
})
