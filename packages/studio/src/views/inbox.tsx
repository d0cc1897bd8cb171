// The inbox: every gate of the project that waits for a person.
import { computed, signal } from '@preact/signals'
import type { ReplyOf, Routes } from '@tidebase/wire'
import { useEffect, useRef, useState } from 'preact/hooks'
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

const pageSize = 50

/** The first gates that wait, page by page until there are `wanted`. */
async function firstGates(wanted: number, signal: AbortSignal) {
  const gates: ReplyOf<Routes['listGates']>['gates'] = []
  for (let after: string | undefined; ; ) {
    const page = await call('listGates', { query: { limit: pageSize, after }, signal })
    gates.push(...page.gates)
    if (page.nextCursor === null || gates.length >= wanted) return { gates, more: page.nextCursor !== null }
    after = page.nextCursor
  }
}

/** The gates that wait, oldest first; more of them as the end comes near. */
export function Inbox() {
  const [wanted, setWanted] = useState(pageSize)
  const { data, error, reload } = useQuery('inbox', (signal) => firstGates(wanted, signal), concerns)
  useEffect(() => {
    if (wanted > pageSize) reload()
  }, [wanted])
  const shown = data?.gates.length ?? 0
  return (
    <>
      <Heading title="Inbox" />
      <Problem error={error} />
      {data?.gates.map((gate) => (
        <GateCard key={gate.id} gate={gate} workflow={gate.workflowName} onDecided={reload} />
      ))}
      {data?.more && <More key={shown} onSeen={() => setWanted(shown + pageSize)} />}
      {shown === 0 && data && (
        <Empty title="Nobody waits for you">
          <p>A run that asks with a gate waits here until somebody approves or rejects. In a workflow:</p>
          <Command text={askingGate} />
        </Empty>
      )}
    </>
  )
}

/** The end of what is loaded: asks for more when it is seen, or pressed. */
function More({ onSeen }: { onSeen: () => void }) {
  const button = useRef<HTMLButtonElement>(null)
  useEffect(() => {
    const watch = new IntersectionObserver((entries) => {
      if (entries.some(({ isIntersecting }) => isIntersecting)) onSeen()
    })
    if (button.current) watch.observe(button.current)
    return () => watch.disconnect()
  }, [])
  return (
    <button type="button" ref={button} onClick={onSeen}>
      Show more
    </button>
  )
}
