// Workers: whoever executed runs lately.
import { call } from '../api.ts'
import { number } from '../format.ts'
import { Ago, Command, Empty, Heading, Problem } from '../parts/basics.tsx'
import { Table } from '../parts/table.tsx'
import { useQuery } from '../query.ts'
import { worker } from '../snippets.ts'

/** The workers that runs tell of. */
export function Workers() {
  const { data, error } = useQuery(
    'workers',
    (signal) => call('listWorkers', { signal }),
    ({ type }) => type.startsWith('run.'),
  )
  return (
    <>
      <Heading title="Workers" />
      <Problem error={error} />
      {data && data.workers.length > 0 && (
        <Table
          label="Workers seen lately"
          columns={['worker', 'running now', 'begun lately', 'workflows', 'seen']}
          rows={data.workers.map(({ name, running, started, workflows, lastSeenAt }) => ({
            key: name,
            cells: [
              <code>{name}</code>,
              number(running),
              number(started),
              workflows.join(', '),
              <Ago at={lastSeenAt} />,
            ],
          }))}
        />
      )}
      {data?.workers.length === 0 && (
        <Empty title="No worker has been seen">
          <p>A worker is a program of yours that takes runs from queues:</p>
          <Command text={worker(location.origin)} />
        </Empty>
      )}
    </>
  )
}
