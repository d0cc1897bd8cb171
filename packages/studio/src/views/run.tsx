/** Comes. */
export function RunPage() {
  return <p />
}
