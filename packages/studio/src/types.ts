// The nouns of the contract, as replies hold them.
import type { ReplyOf, Routes } from '@tidebase/wire'

/** A run with its history. */
export type Detail = ReplyOf<Routes['getRun']>
/** A step of a run. */
export type Step = Detail['steps'][number]
/** A gate of a run. */
export type Gate = Detail['gates'][number]
/** An event of a run. */
export type RunEvent = Detail['events'][number]
/** A recorded version of a run's state. */
export type Version = Detail['stateVersions'][number]
