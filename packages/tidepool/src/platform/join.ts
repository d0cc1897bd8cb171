/**
 * A pod's process on the platform: storage, durable runs and the way out, all over the platform's one socket; and what
 * it reports of itself.
 */
import { createRequire } from 'node:module'
import { openPlatformBackend } from '../backend-platform.ts'
import type { Pod } from '../pod.ts'
import { reply } from '../reply.ts'
import type { TidebaseAddress } from '../workflows.ts'
import { egressConnector, takeEgress } from './egress.ts'
import { type PlatformAddress, platformSocket } from './socket.ts'

const require = createRequire(import.meta.url)

/** Where the platform asks whether the process still answers. */
export const alivePath = '/_tidepool/alive'

/** Makes what `runPod` needs of the platform. @param replica id of this process, for its reports */
export function joinPlatform(address: PlatformAddress, replica: string) {
  takeEgress(address)
  const socket = platformSocket(address)

  async function tidebase(): Promise<TidebaseAddress> {
    const { Agent, fetch: send }: typeof import('undici') = require('undici')
    const dispatcher = new Agent({ connect: { socketPath: address.socket } })
    // Two declarations of one standard: undici's own types and those of the platform's `fetch`.
    const fetch = ((url: string, init: object) =>
      send(url, { ...init, dispatcher })) as unknown as typeof globalThis.fetch
    return { url: 'http://platform/tidebase', apiKey: address.token, fetch }
  }

  return {
    open: () => openPlatformBackend(socket),
    egress: egressConnector(address),
    tidebase,
    report: (message: object) => socket.call<object>('/data/report', { replica, ...message }),
    feature(pod: Pod): void {
      pod.mount(alivePath, {}, () => reply('', { status: 204 }))
    },
  }
}
