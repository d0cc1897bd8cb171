/** Comes. */
export function Keys() {
  return <p />
}
