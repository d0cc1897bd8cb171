// What is recorded of a failed step: the error's text, where it came from, and what caused it.
//
//   Name: message                 as everywhere (`errorText`)
//       at save (file:///app/flow.ts:12:9)
//   Caused by: Name: message
//
// Frames hold names and places and no values; the messages are the program's own.
import { TidebaseError } from './errors.ts'
import { errorText, property } from './thrown.ts'

const mostFrames = 20
const mostFrameChars = 400
const mostCauses = 5
const mostChars = 8_000

const isFrame = (line: string) => /^ {4}at /.test(line)
const isPlatforms = (line: string) =>
  /[ (]node:|\(native\)|^ {4}at (?:async )?(?:new Promise|Promise\.\w+) \((?:<anonymous>|index \d+)\)$/.test(line)

/** The folder of this SDK's files, as frames spell it: with source maps that is not where this module was loaded from. */
const ownFolder = new Error('here').stack
  ?.split('\n')
  .find(isFrame)
  ?.replace(/^ {4}at (?:.*\()?/, '')
  .replace(/[^/\\]*$/, '')

/**
 * The text of an error with its stack, as it is recorded of a step.
 *
 * @param error whatever the step's function threw
 * @returns what `errorText` gives; of errors that are not this SDK's, at most 8,000 characters more: the frames of the
 *   program's own code, and the messages of the causes
 */
export function errorWithStack(error: unknown): string {
  const text = errorText(error)
  // Ours come from inside the SDK and say all there is to say.
  if (!(error instanceof Error) || error instanceof TidebaseError) return text
  try {
    const lines = [...framesOf(error), ...causesOf(error)]
    return (
      text +
      lines
        .map((line) => `\n${line}`)
        .join('')
        .slice(0, mostChars)
    )
  } catch {
    // Somebody's own `stack` or `cause` threw: a failure must be recorded all the same.
    return text
  }
}

/** The lines of a stack that belong to the program; all of them where it is bundled into one file with this SDK. */
function framesOf({ message, stack }: Error): string[] {
  if (typeof stack !== 'string' || typeof message !== 'string') return []
  // The stack begins with the message, which may have lines that look like frames.
  const start = Math.max(0, stack.indexOf(message))
  const lines = stack.slice(start + message.length).split('\n')
  const known = lines.filter((line) => isFrame(line) && !isPlatforms(line))
  const program = known.filter((line) => !ownFolder || !line.includes(ownFolder))
  return (program.length > 0 ? program : known).slice(0, mostFrames).map((line) => line.slice(0, mostFrameChars))
}

/** The chain of causes, which may be a circle. */
function causesOf(error: Error): string[] {
  const seen = new Set<unknown>([error])
  const lines: string[] = []
  for (let cause = property(error, 'cause'); cause !== undefined && cause !== null; cause = property(cause, 'cause')) {
    if (seen.has(cause) || lines.length === mostCauses) break
    seen.add(cause)
    lines.push(`Caused by: ${errorText(cause)}`)
  }
  return lines
}
