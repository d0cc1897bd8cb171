// The state of a run through time: any version, and what changed between any two.
import { useState } from 'preact/hooks'
import { differences } from '../../diff.ts'
import { plural } from '../../format.ts'
import { Ago } from '../../parts/basics.tsx'
import { Json } from '../../parts/json.tsx'
import type { Detail, Version } from '../../types.ts'

const most = 500

/** The versions of each stream of state. */
export function StateTab({ detail }: { detail: Detail }) {
  const [streamId, setStream] = useState<string>()
  const [place, setPlace] = useState<number>()
  const [base, setBase] = useState<number>()
  const stream = detail.stateStreams.find(({ id }) => id === streamId) ?? detail.stateStreams[0]
  const versions = detail.stateVersions.filter((version) => version.streamId === stream?.id)
  const last = versions.length - 1
  const at = Math.min(place ?? last, last)
  const shown = versions[at]
  const from = versions[Math.min(base ?? Math.max(0, at - 1), last)]
  if (!stream || !shown || !from) return <p class="muted">This run has written no state.</p>
  const changes = differences(from.value, shown.value)
  return (
    <>
      <div class="filters">
        <label>
          Stream
          <select
            value={stream.id}
            onChange={({ currentTarget }) => {
              setStream(currentTarget.value)
              setPlace(undefined)
              setBase(undefined)
            }}
          >
            {detail.stateStreams.map(({ id, name }) => (
              <option key={id} value={id}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label>
          Version {shown.version} of {plural(versions.length, 'version')}
          <input
            type="range"
            min={0}
            max={last}
            value={at}
            aria-valuetext={`Version ${shown.version}`}
            onInput={({ currentTarget }) => setPlace(Number(currentTarget.value))}
          />
        </label>
        <label>
          Compare with
          <select value={versions.indexOf(from)} onChange={({ currentTarget }) => setBase(Number(currentTarget.value))}>
            {versions.map(({ version, label }, n) => (
              <option key={version} value={n}>
                {version} {label ?? ''}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Note version={shown} />
      <h2>
        {plural(changes.length, 'change')} from version {from.version} to {shown.version}
      </h2>
      <ul class="diff" aria-label="Changes">
        {changes.slice(0, most).map(({ path, before, after }) => (
          <li key={path}>
            <code>{path || 'everything'}</code> <Side is="del" value={before} /> <Side is="ins" value={after} />
          </li>
        ))}
      </ul>
      <Json title="State" value={shown.value} />
    </>
  )
}

/** What stood on one side of a change. */
function Side({ is: Tag, value }: { is: 'del' | 'ins'; value: unknown }) {
  return value === undefined ? <span class="muted">nothing</span> : <Tag>{JSON.stringify(value)}</Tag>
}

function Note({ version }: { version: Version }) {
  const said = [version.label, version.reason, version.importance, version.createdBy && `by ${version.createdBy}`]
  return (
    <p class="muted">
      <Ago at={version.createdAt} /> · {said.filter(Boolean).join(' · ')}
    </p>
  )
}
