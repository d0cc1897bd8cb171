// Values of unknown shape: what user code throws, what a server or proxy answers. Nothing here throws.

/**
 * A property of a value of unknown shape; undefined when there is none.
 *
 * @param value anything
 * @param key the property's name or symbol
 */
export function property(value: unknown, key: PropertyKey): unknown {
  return isRecord(value) ? value[key] : undefined
}

const isRecord = (value: unknown): value is Record<PropertyKey, unknown> => typeof value === 'object' && value !== null

/**
 * The text of an error as it is recorded: name and message, never the stack.
 *
 * @param error whatever was thrown
 * @returns at most 10,000 characters
 */
export function errorText(error: unknown): string {
  return describe(error).slice(0, 10_000)
}

/**
 * The `failureClass` an error carries, if it carries one.
 *
 * @param error whatever was thrown
 */
export function failureClassOf(error: unknown): string | undefined {
  const given = property(error, 'failureClass')
  return typeof given === 'string' ? given : undefined
}

function describe(error: unknown): string {
  if (error instanceof Error) {
    // The names of our own errors say nothing that their messages do not.
    const plain = error.name === 'Error' || error.name === '' || 'hint' in error
    return plain ? error.message || 'Error' : `${error.name}: ${error.message}`
  }
  if (typeof error === 'string') return error
  try {
    return JSON.stringify(error) ?? String(error)
  } catch {
    return Object.prototype.toString.call(error)
  }
}
