// State and snapshots: versioned JSON that a run shows to the world while it works.
// A write that was repeated because its answer was lost may append a second, equal version; nothing is lost by it.
import type { BodyOf, Routes } from '@tidebase/wire'
import type { Lease } from './lease.ts'
import { recorded, type State, type StateVersion } from './types.ts'

/** What is noted with a version. */
export type StateNote = Omit<BodyOf<Routes['setState']>, 'value'>
/** What is noted with a saved version. */
export type SaveNote = Omit<BodyOf<Routes['saveState']>, 'label'>
/** What is noted with a snapshot. */
export type SnapshotNote = Omit<BodyOf<Routes['createSnapshot']>, 'label' | 'state'>

/** The state of one run. The stream is `run` unless named. */
export class States {
  readonly #lease: Lease

  constructor(lease: Lease) {
    this.#lease = lease
  }

  /**
   * Replaces the value and appends a version.
   *
   * @param value any JSON
   * @param note stream, label, reason, importance, metadata, createdBy
   * @example await run.state.set({ status: 'writing', progress: 0.7 })
   */
  async set(value: unknown, note: StateNote = {}): Promise<State> {
    const body = { ...note, value }
    return (await this.#lease.call('setState', { params: this.#params, body })).state
  }

  /**
   * Merges top-level keys into the value and appends a version.
   *
   * @param value the keys to change
   * @param note as for `set`
   */
  async patch(value: Record<string, unknown>, note: StateNote = {}): Promise<State> {
    const body = { ...note, value }
    return (await this.#lease.call('patchState', { params: this.#params, body })).state
  }

  /**
   * Reads the current value.
   *
   * @param stream `run` unless given
   * @returns the value; null when nothing was written yet
   */
  async get<T = unknown>(stream = 'run'): Promise<T | null> {
    const detail = await this.#lease.call('getRun', { params: this.#params, query: { include: 'stateStreams' } })
    const found = detail.stateStreams.find((each) => each.name === stream)
    return found ? recorded<T>(found.currentValue) : null
  }

  /**
   * Appends a labelled version of the current value.
   *
   * @param label what people find it by
   * @param note as for `set`; importance is `milestone` unless given
   * @throws TidebaseError `state_not_found` when nothing was written yet
   */
  async save(label: string, note: SaveNote = {}): Promise<StateVersion> {
    const body = { ...note, label }
    return (await this.#lease.call('saveState', { params: this.#params, body })).stateVersion
  }

  /**
   * Lists versions by stream, then number.
   *
   * @param filter one stream only; labelled ones only
   */
  async versions(filter: { stream?: string; labeled?: boolean } = {}): Promise<StateVersion[]> {
    const query = { stream: filter.stream, labeled: filter.labeled ? 'true' : undefined }
    return (await this.#lease.call('listStateVersions', { params: this.#params, query })).stateVersions
  }

  get #params() {
    return { runId: this.#lease.runId }
  }
}

/** The snapshots of one run: labelled states of some target, such as a file. */
export class Snapshots {
  readonly #lease: Lease

  constructor(lease: Lease) {
    this.#lease = lease
  }

  /**
   * Records a labelled state of a target.
   *
   * @param label what people find it by
   * @param note the state (any JSON), the target `{type, id}` (the run itself unless given), reason, metadata, createdBy
   * @example await run.snapshots.create('draft-v1', { target: { type: 'report', id }, state: draft })
   */
  async create(label: string, note: SnapshotNote & { state: unknown }): Promise<StateVersion> {
    const body = { ...note, label }
    return (await this.#lease.call('createSnapshot', { params: { runId: this.#lease.runId }, body })).snapshot
  }

  /** Lists the run's labelled versions, newest first. */
  async list(): Promise<StateVersion[]> {
    return (await this.#lease.call('listSnapshots', { params: { runId: this.#lease.runId } })).snapshots
  }
}
