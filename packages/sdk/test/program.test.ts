// Real processes: killed in the middle, started again; and gone by themselves when their work is done.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { startServer } from '../../../test/server.ts'

const program = fileURLToPath(new URL('./program.ts', import.meta.url))

function start(...args: string[]) {
  const child = spawn(process.execPath, ['--conditions=source', '--import', 'tsx', program, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines: string[] = []
  let woken = () => {}
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    lines.push(...text.trim().split('\n'))
    woken()
  })
  const line = async (wanted: string) => {
    while (!lines.includes(wanted))
      await new Promise<void>((resolve) => {
        woken = resolve
      })
    return performance.now()
  }
  return { child, lines, line }
}

test('a program killed in the middle goes on where it was, and exits when it is done', async () => {
  const server = await startServer({ leaseMs: 2_000 })
  const first = start(server.url)
  await first.line('step 2')
  // The step's record is acknowledged before the next line of the workflow runs; give it that moment.
  await new Promise((resolve) => setTimeout(resolve, 200))
  first.child.kill('SIGKILL')
  await once(first.child, 'exit')
  const runId = /run_\w+/.exec(first.lines[0] ?? '')?.[0] ?? ''
  const second = start(server.url, runId)
  const saidDone = second.line('done')
  const [code] = await once(second.child, 'exit')
  expect(performance.now() - (await saidDone)).toBeLessThan(5_000)
  expect(code).toBe(0)
  expect(first.lines).toEqual([`run ${runId} attempt 1`, 'step 1', 'step 2'])
  expect(second.lines).toEqual([`run ${runId} attempt 2`, 'step 3', 'done'])
  await server.stop(500)
})
