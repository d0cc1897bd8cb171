// The project that the API key belongs to.
import type { BodyOf, Routes } from '@tidebase/wire'
import type { Transport } from './transport.ts'
import type { ProjectInfo } from './types.ts'

/** Operations on the project. */
export class Project {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** Its name, and for how many days it keeps ended runs. */
  async get(): Promise<ProjectInfo> {
    return (await this.#transport.call('getProject', {})).project
  }

  /**
   * Sets how long ended runs are kept. Needs an admin key.
   *
   * @param config retentionDays: 0 for ever, null the server's default; an absent field keeps its value
   * @example await tide.project.configure({ retentionDays: 30 })
   */
  async configure(config: BodyOf<Routes['configureProject']>): Promise<ProjectInfo> {
    return (await this.#transport.call('configureProject', { body: config })).project
  }
}
