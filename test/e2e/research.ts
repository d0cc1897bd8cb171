// The research example as its README runs it: killed in the middle, started again, waiting at its gate.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type RunDetail, Tidebase } from '@tidebase/sdk'

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))

/** A run of the example that waits at its gate. */
export interface Research {
  runId: string
  /** Steps that were done when its first worker was killed. */
  before: number
  /** Resolves when the agent has ended by itself. */
  done: Promise<unknown>
  /** Ends the agent if it still runs, and removes what it wrote. */
  stop(): Promise<void>
}

/**
 * Runs the example on a server whose leases are short, kills it with SIGKILL after three steps, and starts it again.
 *
 * @param paceMs time that a step takes, ms
 */
export async function crashAndResume(url: string, apiKey: string | undefined, paceMs: number): Promise<Research> {
  const out = await mkdtemp(join(tmpdir(), 'tidebase-research-'))
  const tide = new Tidebase({ url, ...(apiKey !== undefined && { apiKey }) })
  const agent = async (...runId: string[]): Promise<{ child: ChildProcess; id: string }> => {
    const program = path('../../examples/research-agent/agent.ts')
    const child = spawn(
      process.execPath,
      ['--conditions=source', '--import', 'tsx', program, path('../../docs'), ...runId],
      {
        env: {
          ...process.env,
          TIDEBASE_URL: url,
          ...(apiKey !== undefined && { TIDEBASE_API_KEY: apiKey }),
          AGENT_OUT: out,
          AGENT_PACE_MS: String(paceMs),
        },
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    )
    const { value } = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next()
    if (typeof value !== 'string') throw new Error('the agent said nothing')
    return { child, id: value }
  }
  const until = async (runId: string, reached: (detail: RunDetail) => boolean): Promise<RunDetail> => {
    for (;;) {
      const detail = await tide.runs.get(runId)
      if (reached(detail)) return detail
      await sleep(50)
    }
  }
  const completed = ({ steps }: RunDetail) => steps.filter(({ status }) => status === 'completed').length

  const first = await agent()
  const before = completed(await until(first.id, (detail) => completed(detail) >= 3))
  first.child.kill('SIGKILL')
  await once(first.child, 'exit')
  const second = await agent(first.id)
  const done = once(second.child, 'exit')
  await until(first.id, ({ gates }) => gates.some(({ status }) => status === 'pending'))
  return {
    runId: first.id,
    before,
    done,
    async stop() {
      second.child.kill()
      await done
      await rm(out, { recursive: true, force: true })
    },
  }
}
