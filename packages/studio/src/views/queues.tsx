/** Comes. */
export function Queues() {
  return <p />
}
