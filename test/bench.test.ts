import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { beforeAll, expect, test } from 'vitest'

const program = fileURLToPath(new URL('../bench/run.ts', import.meta.url))

// What is measured is what is shipped, so it must be there before a benchmark is loaded.
beforeAll(async () => {
  await promisify(execFile)(process.execPath, [fileURLToPath(new URL('../scripts/build.mjs', import.meta.url))])
}, 120_000)

/** Runs a benchmark for as short as it can be; what it measures is no test's business. @returns its output */
async function bench(name: string): Promise<string> {
  const args = ['--import', 'tsx', program, name, '--quick', '--no-peers']
  const { stdout } = await promisify(execFile)(process.execPath, args)
  expect(stdout).not.toContain('NaN')
  return stdout
}

/** The samples among the output: a line of JSON each. */
function samples(output: string): { benchmark: string; system: string; figures: Record<string, number> }[] {
  return output
    .split('\n')
    .filter((line) => line.startsWith('{"benchmark"'))
    .map((line) => JSON.parse(line))
}

// So that none rots.
test('the benchmarks behind the goals run, and every goal gets its figure', { timeout: 300_000 }, async () => {
  const output = await bench('goals')
  const taken = samples(output)
  expect(new Set(taken.map(({ benchmark }) => benchmark))).toEqual(
    new Set(['steps', 'queue', 'resume', 'live', 'detail', 'old-steps', 'old-jobs']),
  )
  for (const { system, figures } of taken) {
    expect(system).toContain('tidebase')
    for (const [name, figure] of Object.entries(figures)) expect(figure, `${system}: ${name}`).toBeGreaterThan(0)
  }
  const [, goals = ''] = output.split('## goals')
  const rows = goals.split('\n').filter((line) => /^\| .*[≥≤]/.test(line))
  expect(rows).toHaveLength(15)
  for (const row of rows) expect(row).toMatch(/ \| (yes|no: .+) \|$/)
})

test('the soak runs and says what grew', { timeout: 120_000 }, async () => {
  const [taken] = samples(await bench('soak'))
  expect(taken?.figures.steps).toBeGreaterThan(0)
  for (const name of ['rssMb', 'heapMb', 'tablesMb', 'liveRows']) expect(taken?.figures[name]).toBeGreaterThan(1)
  for (const name of ['rssGrowth', 'heapGrowth', 'tablesGrowth', 'loopP99ms', 'idleCpuPercent'])
    expect(taken?.figures).toHaveProperty(name)
})

test.each([
  ['waits', 'parked runs'],
  ['pod', '| pod |'],
  ['platform', '| gateway |'],
])('the benchmark %s runs', { timeout: 120_000 }, async (name, says) => {
  expect(await bench(name)).toContain(says)
})
