/**
 * `tp.state` and `tp.publish`: a small public JSON object of the app, readable by anybody at `/?format=json`.
 *
 * It lies in the backend, so all replicas answer with the same; the ETag is its version, so that polling is cheap.
 */
import type { Json } from './backend.ts'
import { TpError } from './errors.ts'
import type { Pod } from './pod.ts'
import { reply } from './reply.ts'

const key = 'public'
const maxTries = 100

export type State = { readonly [key: string]: Json }

/** Makes the state of a pod: the last known copy, and `publish`. */
export function createState(pod: Pod) {
  let known: State = Object.freeze({})

  return {
    current: (): State => known,
    /**
     * Merges `patch` into the public state: its fields replace those of the same name, undefined removes one.
     * @returns the new state
     * @throws TpError `bad_value`
     * @example await tp.publish({ score: 12, players: ['ada', 'bob'] })
     */
    async publish(patch: { [key: string]: unknown }): Promise<State> {
      const { backend } = pod.setup()
      for (let tries = 0; tries < maxTries; tries++) {
        const entry = await backend.read('state', key)
        const merged: { [key: string]: Json } = JSON.parse(JSON.stringify({ ...entry?.value, ...patch }))
        const condition = entry ? entry.version : 'absent'
        const outcome = await backend.write([{ op: 'set', space: 'state', key, value: merged, if: condition }])
        if (!outcome.ok) continue
        known = Object.freeze(merged)
        return known
      }
      throw new TpError('conflict', 'The public state is changed by too many at once')
    },
    /** Answers `/?format=json` once something is published. */
    async feature(): Promise<void> {
      const { backend } = pod.setup()
      known = Object.freeze((await backend.read('state', key))?.value ?? {})
      pod.before((req) => {
        if (req.path !== '/' || req.method !== 'GET' || req.query.format !== 'json') return undefined
        return (async () => {
          const entry = await backend.read('state', key)
          if (!entry) return undefined
          known = Object.freeze(entry.value)
          const headers = { etag: `"state-${entry.version}"`, 'cache-control': 'no-cache' }
          if (req.headers['if-none-match'] === headers.etag) return reply(null, { status: 304, headers })
          return reply(entry.value, { headers })
        })()
      })
    },
  }
}
