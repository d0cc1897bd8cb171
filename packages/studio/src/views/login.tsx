// Login with an API key. A server without keys lets everybody in without asking.
import { useEffect, useState } from 'preact/hooks'
import { type CallError, call } from '../api.ts'
import { Command, Problem } from '../parts/basics.tsx'
import { shown } from '../query.ts'
import { forgetKey, key, me, rememberKey } from '../session.ts'

/** Asks for a key until the server knows it. */
export function Login() {
  const [secret, setSecret] = useState('')
  const [error, setError] = useState<CallError>()
  const [asking, setAsking] = useState(true)

  const enter = async () => {
    setAsking(true)
    setError(undefined)
    const given = key.peek()
    try {
      me.value = await call('whoAmI')
    } catch (problem) {
      const { code } = shown(problem)
      // Without a key given, `unauthorized` only says that one is needed.
      if (code !== 'unauthorized' || given !== null) setError(shown(problem))
      if (code === 'unauthorized') forgetKey()
      setAsking(false)
    }
  }
  useEffect(() => {
    void enter()
  }, [])
  // A key from before is being looked at: nothing to ask yet.
  if (asking && secret === '') return <p class="unseen">Connecting…</p>
  return (
    <main class="login">
      <form
        onSubmit={(event) => {
          event.preventDefault()
          rememberKey(secret.trim())
          void enter()
        }}
      >
        <h1>Tidebase Studio</h1>
        <label>
          API key
          <input
            type="password"
            name="key"
            autocomplete="current-password"
            required
            value={secret}
            onInput={({ currentTarget }) => setSecret(currentTarget.value)}
          />
        </label>
        <Problem error={error} />
        <button type="submit" class="primary" disabled={asking}>
          Log in
        </button>
        <p class="muted">
          The key stays in this tab and is gone when you close it. A key of scope <code>read</code> sees everything and
          changes nothing:
        </p>
        <Command text="tidebase keys create studio --scope read" />
      </form>
    </main>
  )
}
