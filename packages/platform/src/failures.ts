// What a pod's process says of its own failure: an error with a place in its source. It comes from the pod, so it is
// taken apart and put together anew before it is kept and shown.
import type { ErrorBody } from 'tidepool/kit'
import { strike } from './logs.ts'

const maxErrorChars = 4_000

/** As far as it has the form of an error. @param secrets texts that it must not contain */
export function failureOf(said: unknown, secrets: readonly string[]) {
  const { error, file, line, column, issues } = { ...(said as Partial<ErrorBody>) }
  const shown = (text: string) => strike(text, secrets).slice(0, maxErrorChars)
  const wrong = Array.isArray(issues) ? issues.slice(0, 20) : []
  return {
    text: typeof error === 'string' ? shown(error) : 'main.ts threw',
    place: {
      ...(typeof file === 'string' && { file: shown(file) }),
      ...(typeof line === 'number' && { line }),
      ...(typeof column === 'number' && { column }),
      ...(wrong.length > 0 && {
        issues: wrong.map((issue) => ({
          path: Array.isArray(issue?.path) ? issue.path.map(String) : [],
          message: shown(String(issue?.message)),
        })),
      }),
    },
  }
}
