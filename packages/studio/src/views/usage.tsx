/** Comes. */
export function UsagePage() {
  return <p />
}
