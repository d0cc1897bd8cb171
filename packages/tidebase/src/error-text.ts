// Errors of steps are recorded with the stack of the program. It belongs to the step's record alone: events, and the
// webhooks and streams that carry them, have the message.

/** Where a stack begins, as programs in TypeScript and Python send it. */
const stack = /\n {4}at |\nTraceback \(most recent call last\):\n|\nCaused by: /

/** An error's text without its stack. */
export function messagePart(text: string): string {
  const start = text.search(stack)
  return start < 0 ? text : text.slice(0, start)
}
