/**
 * Which handler call (or background task) the current code runs in: limits such as "5 mails per handler call" count
 * there.
 *
 * Following asynchronous calls costs every request of the process on Node 20, so it begins with the first use: until
 * then handlers run bare. The call that is the first to ask gets its scope by `enterWith`.
 */
import { AsyncLocalStorage } from 'node:async_hooks'

interface Scope {
  mails: number
}

const storage = new AsyncLocalStorage<Scope>()
let following = false

/** Runs a handler in a scope of its own, once anybody has asked for scopes. */
export function inHandler<T>(run: () => T): T {
  return following ? storage.run({ mails: 0 }, run) : run()
}

/** The scope of the current handler call. */
export function currentScope(): Scope {
  following = true
  const found = storage.getStore()
  if (found) return found
  const scope = { mails: 0 }
  storage.enterWith(scope)
  return scope
}
