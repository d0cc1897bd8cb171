/** Comes. */
export function Schedules() {
  return <p />
}
