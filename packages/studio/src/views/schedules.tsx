// Schedules: when each fires next, firing one now, and pausing it.
import { call, can } from '../api.ts'
import { exact } from '../format.ts'
import { Ago, Command, Empty, Heading, Problem, Status } from '../parts/basics.tsx'
import { Ask } from '../parts/dialog.tsx'
import { useQuery } from '../query.ts'

/** The schedules of the project. */
export function Schedules() {
  const { data, error, reload } = useQuery(
    'schedules',
    (signal) => call('listSchedules', { signal }),
    ({ type }) => type === 'run.enqueued',
  )
  return (
    <>
      <Heading title="Schedules" />
      <Problem error={error} />
      {data?.schedules.map((schedule) => {
        const {
          name,
          cron,
          timezone,
          workflowName,
          queue,
          enabled,
          nextRuns,
          lastEnqueuedAt,
          input,
          maxAttempts,
          catchUp,
        } = schedule
        const put = async () => {
          const body = { cron, timezone, workflowName, input, queue, maxAttempts, catchUp, enabled: !enabled }
          await call('putSchedule', { params: { name }, body })
          reload()
        }
        return (
          <article class="card" key={name}>
            <header>
              <h2>{name}</h2>
              <Status of={enabled ? 'running' : 'paused'} />
            </header>
            <p>
              <code>{cron}</code> {timezone} · {workflowName} in{' '}
              <a href={`/ui/runs?${new URLSearchParams({ 'metadata.schedule': name })}`}>{queue}</a>
              {lastEnqueuedAt && (
                <span class="muted">
                  {' '}
                  · last <Ago at={lastEnqueuedAt} />
                </span>
              )}
            </p>
            {enabled && (
              <ol class="next" aria-label="Next times">
                {nextRuns.map((time) => (
                  <li key={time}>
                    {exact(time)}{' '}
                    <span class="muted">
                      (<Ago at={time} />)
                    </span>
                  </li>
                ))}
              </ol>
            )}
            <div class="buttons">
              {can('triggerSchedule') && (
                <Ask
                  label="Trigger now"
                  title={`Trigger ${name} now?`}
                  action="Trigger it"
                  onConfirm={() => call('triggerSchedule', { params: { name } }).then(reload)}
                >
                  <p>One run is put into its queue at once; its times stay as they are.</p>
                </Ask>
              )}
              {can('putSchedule') && (
                <Ask
                  label={enabled ? 'Pause' : 'Resume'}
                  title={`${enabled ? 'Pause' : 'Resume'} ${name}?`}
                  action={enabled ? 'Pause it' : 'Resume it'}
                  onConfirm={put}
                />
              )}
            </div>
          </article>
        )
      })}
      {data?.schedules.length === 0 && (
        <Empty title="No schedules yet">
          <p>A schedule puts a run into a queue at the times of a cron expression:</p>
          <Command
            text={`curl -X PUT ${location.origin}/schedules/morning -H 'content-type: application/json' -d '{"cron":"0 9 * * 1-5","workflowName":"digest"}'`}
          />
        </Empty>
      )}
    </>
  )
}
