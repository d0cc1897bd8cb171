// Asks a Node process for its heap, by the inspector it was started with (`--inspect`).
import { WebSocket } from 'undici'

/** A process's inspector. */
export interface Inspector {
  /** Collects garbage, then tells what is left, bytes. */
  heapAfterGc(): Promise<number>
  close(): void
}

/** @param url `ws://…`, as the process printed it */
export async function openInspector(url: string): Promise<Inspector> {
  const socket = new WebSocket(url)
  await new Promise<void>((resolve, reject) => {
    socket.addEventListener('open', () => resolve(), { once: true })
    socket.addEventListener('error', ({ message }) => reject(new Error(`the inspector: ${message}`)), { once: true })
  })
  const waiting = new Map<number, (reply: Reply) => void>()
  socket.addEventListener('message', ({ data }) => {
    const reply: Reply = JSON.parse(String(data))
    waiting.get(reply.id)?.(reply)
  })
  let calls = 0
  const call = (method: string) =>
    new Promise<Reply>((resolve, reject) => {
      const id = ++calls
      waiting.set(id, (reply) => {
        waiting.delete(id)
        if (reply.error) reject(new Error(`${method}: ${reply.error.message}`))
        else resolve(reply)
      })
      socket.send(JSON.stringify({ id, method }))
    })
  return {
    async heapAfterGc() {
      await call('HeapProfiler.collectGarbage')
      return (await call('Runtime.getHeapUsage')).result?.usedSize ?? Number.NaN
    },
    close: () => socket.close(),
  }
}

interface Reply {
  id: number
  result?: { usedSize?: number }
  error?: { message: string }
}
