// The inbox: every gate of the project that waits for a person.
import { computed, signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import { call } from '../api.ts'
import { Command, Empty, Heading, Problem } from '../parts/basics.tsx'
import { GateCard } from '../parts/gate.tsx'
import { useQuery } from '../query.ts'
import { askingGate } from '../snippets.ts'

const count = signal(0)
/** How many gates wait, for the navigation. */
export const pendingGates = computed(() => count.value)

const concerns = ({ type }: { type: string }) => type.startsWith('gate.') || type === 'run.cancelled'

/** Keeps the number beside Inbox. */
export function useInboxCount(enabled: boolean): void {
  const { data } = useQuery(
    `inbox count ${enabled}`,
    async (signal) => (enabled ? (await call('listGates', { query: { limit: 100 }, signal })).gates.length : 0),
    concerns,
  )
  useEffect(() => {
    count.value = data ?? 0
  }, [data])
}

/** The gates that wait, oldest first. */
export function Inbox() {
  const { data, error, reload } = useQuery('inbox', (signal) => call('listGates', { signal }), concerns)
  return (
    <>
      <Heading title="Inbox" />
      <Problem error={error} />
      {data?.gates.map((gate) => (
        <GateCard key={gate.id} gate={gate} workflow={gate.workflowName} onDecided={reload} />
      ))}
      {data?.nextCursor && <p class="muted">The oldest 100; more come as these are decided.</p>}
      {data?.gates.length === 0 && (
        <Empty title="Nobody waits for you">
          <p>A run that asks with a gate waits here until somebody approves or rejects. In a workflow:</p>
          <Command text={askingGate} />
        </Empty>
      )}
    </>
  )
}
