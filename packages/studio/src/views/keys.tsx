// The keys of the project: made, shown once, revoked.
import { useState } from 'preact/hooks'
import { call } from '../api.ts'
import { Ago, Command, Heading, Problem } from '../parts/basics.tsx'
import { Ask } from '../parts/dialog.tsx'
import { Table } from '../parts/table.tsx'
import { useQuery } from '../query.ts'

const scopes = [
  ['read', 'read: sees everything, changes nothing'],
  ['enqueue', 'enqueue: makes runs and reads its own'],
  ['worker', 'worker: executes runs'],
  ['admin', 'admin: everything'],
] as const

/** API keys, for admins. */
export function Keys() {
  const { data, error, reload } = useQuery('keys', (signal) => call('listKeys', { signal }))
  const [name, setName] = useState('')
  const [scope, setScope] = useState<(typeof scopes)[number][0]>('read')
  const [secret, setSecret] = useState<string>()
  const make = async () => {
    setSecret((await call('createKey', { body: { name, scope } })).secret)
    setName('')
    reload()
  }
  return (
    <>
      <Heading title="Keys">
        <Ask label="New key…" class="primary" title="New key" action="Make the key" onConfirm={make}>
          <p>
            <label>
              Name
              <input
                required
                value={name}
                maxLength={200}
                onInput={({ currentTarget }) => setName(currentTarget.value)}
              />
            </label>
          </p>
          <p>
            <label>
              Scope
              <select
                value={scope}
                onChange={({ currentTarget }) =>
                  setScope(scopes.find(([each]) => each === currentTarget.value)?.[0] ?? 'read')
                }
              >
                {scopes.map(([each, words]) => (
                  <option key={each} value={each}>
                    {words}
                  </option>
                ))}
              </select>
            </label>
          </p>
        </Ask>
      </Heading>
      <Problem error={error} />
      {secret && (
        <section class="card" aria-label="The new key">
          <p>This is the only time that the key is shown:</p>
          <Command text={secret} />
        </section>
      )}
      {data && data.keys.length === 0 && <p class="muted">No keys have been made; the server’s own needs none.</p>}
      {data && data.keys.length > 0 && (
        <Table
          label="API keys"
          columns={['name', 'scope', 'ends in', 'made', 'revoke']}
          rows={data.keys.map((key) => ({
            key: key.id,
            cells: [
              key.name,
              key.scope,
              <code>{key.hint}</code>,
              <Ago at={key.createdAt} />,
              key.revokedAt ? (
                <span class="muted">
                  revoked <Ago at={key.revokedAt} />
                </span>
              ) : (
                <Ask
                  label={`Revoke ${key.name}`}
                  title={`Revoke ${key.name}?`}
                  action="Revoke it"
                  danger
                  onConfirm={() => call('revokeKey', { params: { keyId: key.id } }).then(reload)}
                >
                  <p>Programs that use it are refused within five seconds, for good.</p>
                </Ask>
              ),
            ],
          }))}
        />
      )}
    </>
  )
}
