/** Comes. */
export function Workers() {
  return <p />
}
