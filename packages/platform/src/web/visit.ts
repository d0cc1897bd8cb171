// A page of the control plane is a value: its path, and what answers it.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Caller } from '../agents.ts'
import type { Platform } from '../platform.ts'
import type { Html } from './page.ts'

/** A request for a page. */
export interface Visit {
  platform: Platform
  caller: Caller
  /** The cookie, whether or not it stands for anybody. */
  cookie: string | undefined
  params: Record<string, string>
  query: URLSearchParams
  /** Of a form; empty unless it was posted. */
  form: URLSearchParams
  req: IncomingMessage
  res: ServerResponse
  signal: AbortSignal
  /** Sends a page in the frame of all. */
  show(title: string, content: Html, more?: { here?: string; status?: number }): void
  /** After a form: where to go. */
  go(path: string, headers?: Record<string, string>): void
}

export interface Page {
  method: 'GET' | 'POST'
  path: string
  /** Who is not signed in is asked to, first. */
  signedIn?: true
  handler: (visit: Visit) => Promise<void> | void
}
