// Who is looking. The key stays in this tab: session storage, never an address, gone when the tab closes.

import { signal } from '@preact/signals'
import type { ReplyOf, Routes } from '@tidebase/wire'

const storageName = 'tidebase.studio.key'

function stored(): string | null {
  try {
    return sessionStorage.getItem(storageName)
  } catch {
    return null
  }
}

/** What the server says about the key. */
export type Me = ReplyOf<Routes['whoAmI']>

/** The API key; null when none is needed or known. */
export const key = signal<string | null>(stored())

/** Who the key is; null until the server has said it. */
export const me = signal<Me | null>(null)

/** Remembers a key for as long as this tab is open. */
export function rememberKey(secret: string): void {
  key.value = secret
  try {
    sessionStorage.setItem(storageName, secret)
  } catch {
    // Storage is forbidden: the key lives in memory.
  }
}

/** Forgets the key: logged out. */
export function forgetKey(): void {
  key.value = null
  me.value = null
  try {
    sessionStorage.removeItem(storageName)
  } catch {
    // Nothing was stored.
  }
}
