// The resume contract and the input hash: pure functions that the server and every SDK must agree on.
// No dependencies, so that the SDK can use them without the schemas. Shared vectors: test/conformance/.

/** What may happen to a step whose outcome is unknown. */
export type ResumeDecision = 'auto_retry' | 'safe_replay' | 'manual_review' | 'fail_hard'

/** The parts of a step's options that decide whether it may be repeated. */
export interface ContractOptions {
  sideEffects?: readonly string[] | null
  idempotencyKey?: string | null
  replay?: string | null
  checkpointInvariant?: string | null
  verifiedBy?: unknown
  credentials?: unknown
  /** Older spelling of `sideEffects`. */
  sideEffect?: string | null
  /** Older spelling of `replay`. */
  onAmbiguousFailure?: string | null
}

const legacyReplay: Record<string, string> = { retry: 'auto', review: 'manual', fail: 'never' }
const decisions: Record<string, ResumeDecision> = {
  auto: 'safe_replay',
  manual: 'manual_review',
  never: 'fail_hard',
}

/** The contract object of a step: its options with older spellings read and what is absent as null. */
export function resumeContract(options: ContractOptions | null | undefined) {
  const given = options ?? {}
  const legacyEffect = given.sideEffect && given.sideEffect !== 'none' ? [given.sideEffect] : []
  return {
    sideEffects: [...(given.sideEffects ?? legacyEffect)],
    idempotencyKey: given.idempotencyKey ?? null,
    replay: given.replay ?? legacyReplay[given.onAmbiguousFailure ?? ''] ?? null,
    checkpointInvariant: given.checkpointInvariant ?? null,
    verifiedBy: given.verifiedBy ?? null,
    credentials: given.credentials ?? null,
  }
}

/**
 * Whether a step may run again when it is not known how it ended.
 * An explicit `replay` wins; without side effects (or with `read` alone) and with an idempotency key it is safe;
 * otherwise somebody has to look.
 */
export function resumeDecision(options: ContractOptions | null | undefined): ResumeDecision {
  const contract = resumeContract(options)
  const explicit = decisions[contract.replay ?? '']
  if (explicit) return explicit
  const harmless = contract.sideEffects.every((effect) => effect === 'read' || effect === 'none')
  return harmless || contract.idempotencyKey ? 'safe_replay' : 'manual_review'
}

/**
 * JSON with object keys sorted by UTF-16 code unit and no white space, so that equal inputs give equal text.
 * `undefined` counts as null at the top and in arrays, and is left out of objects.
 */
export function stableJson(value: unknown): string {
  return stable(value) ?? 'null'
}

/** Written out, because an object cannot hold its keys in this order: those that look like integers come first. */
function stable(value: unknown): string | undefined {
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  if ('toJSON' in value && typeof value.toJSON === 'function') return stable(value.toJSON())
  if (Array.isArray(value)) return `[${value.map((item) => stable(item) ?? 'null').join(',')}]`
  const members = Object.entries(value)
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .flatMap(([key, item]) => {
      const text = stable(item)
      return text === undefined ? [] : [`${JSON.stringify(key)}:${text}`]
    })
  return `{${members.join(',')}}`
}
