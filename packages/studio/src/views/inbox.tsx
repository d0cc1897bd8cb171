/** Comes. */
export function Inbox() {
  return <p />
}

import { signal } from '@preact/signals'
export const pendingGates = signal(0)
