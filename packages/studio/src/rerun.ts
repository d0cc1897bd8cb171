// Whether a step may run again, in plain words.
import { resumeDecision } from '@tidebase/wire/contract'
import type { Step } from './types.ts'

/** One or two sentences for people who must decide. */
export function rerun(step: Step): { safe: boolean; words: string } {
  if (step.status === 'completed')
    return {
      safe: true,
      words: 'Done: its output is recorded, and a resumed run takes that instead of running it again.',
    }
  if (step.needsReview)
    return {
      safe: false,
      words: 'Somebody must decide. Its worker died in the middle, and nobody knows whether its effect happened.',
    }
  const { sideEffects, idempotencyKey, replay } = step.resumeContract
  const decision = resumeDecision(step.resumeContract)
  const effects = sideEffects.filter((effect) => effect !== 'read' && effect !== 'none').join(', ')
  if (decision === 'safe_replay') {
    if (replay === 'auto') return { safe: true, words: 'Safe to run again: its author said so (replay: auto).' }
    if (effects && idempotencyKey)
      return {
        safe: true,
        words: `Safe to run again: it changes something (${effects}), but its idempotency key makes a repetition the same call.`,
      }
    return { safe: true, words: 'Safe to run again: it changes nothing outside the run.' }
  }
  if (decision === 'fail_hard')
    return {
      safe: false,
      words: 'Not to be run again: its author said so (replay: never). If it is cut off, the run fails.',
    }
  return {
    safe: false,
    words:
      replay === 'manual'
        ? 'Not without asking: its author wants a person to decide (replay: manual).'
        : `Not without asking: it changes something (${effects}) and has no idempotency key, so a repetition could do it twice.`,
  }
}
