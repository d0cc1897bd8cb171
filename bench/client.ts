// The leanest HTTP client we know of, so that the load costs little beside what is measured: one keep-alive connection
// per caller, JSON in and out.
import { Pool } from 'undici'

/** Calls a server: POSTs JSON and gives the reply's JSON. Anything but 200 is an error. */
export interface Client {
  post<Reply>(path: string, body: unknown, headers?: Record<string, string>): Promise<Reply>
  get<Reply>(path: string): Promise<Reply>
  close(): Promise<void>
}

/** @param connections how many calls may be under way at once */
export function connect(url: string, connections: number): Client {
  const pool = new Pool(url, { connections, pipelining: 1 })
  const call = async <Reply>(
    method: 'GET' | 'POST',
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ) => {
    const response = await pool.request({
      method,
      path,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      headers: body === undefined ? headers : { 'content-type': 'application/json', ...headers },
    })
    const text = await response.body.text()
    if (response.statusCode !== 200) throw new Error(`${method} ${path}: ${response.statusCode} ${text}`)
    return JSON.parse(text) as Reply
  }
  return {
    post: (path, body, headers) => call('POST', path, body, headers),
    get: (path) => call('GET', path),
    close: () => pool.close(),
  }
}

/** Runs `task` `total` times, `concurrent` at once. @returns seconds it took */
export async function repeat(
  total: number,
  concurrent: number,
  task: (n: number) => Promise<unknown>,
): Promise<number> {
  let next = 0
  const began = performance.now()
  await Promise.all(
    Array.from({ length: Math.min(concurrent, total) }, async () => {
      while (next < total) await task(next++)
    }),
  )
  return (performance.now() - began) / 1000
}

/** The value below which a share of the values lies. Sorts in place. */
export function percentile(values: number[], share: number): number {
  values.sort((a, b) => a - b)
  return values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN
}

/** Two digits after the point. */
export const round = (value: number) => Math.round(value * 100) / 100
