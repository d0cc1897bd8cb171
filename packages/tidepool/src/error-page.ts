/**
 * Errors for people: where in the author's own source an error comes from, and the page that shows it.
 *
 * Invariant: in production a page says what the error body says and nothing else: no message of a thrown error, no
 * source, no stack.
 */
import { readFileSync } from 'node:fs'
import { relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ErrorBody } from './errors.ts'
import { Html, html } from './html.ts'

/** A place in the author's source with the lines around it. */
export interface Place {
  /** Relative to the pod's folder. */
  file: string
  line: number
  column: number
  source: { number: number; text: string }[]
}

const around = 4

/** The lines around a place, or an empty list when the file cannot be read. */
export function sourceAround(path: string, line: number): Place['source'] {
  try {
    const lines = readFileSync(path, 'utf8').split('\n')
    const first = Math.max(1, line - around)
    return lines.slice(first - 1, line + around).map((text, at) => ({ number: first + at, text }))
  } catch {
    return []
  }
}

/** The first frame of the error's stack that lies in the pod's own source. */
export function findPlace(error: unknown, dir: string): Place | undefined {
  const stack = typeof error === 'object' && error !== null && 'stack' in error ? String(error.stack) : ''
  for (const frame of stack.split('\n')) {
    const [, location, line, column] = /\(?((?:file:\/\/)?\/[^()]*?):(\d+):(\d+)\)?$/.exec(frame) ?? []
    if (!location || !line || !column) continue
    const path = location.startsWith('file:') ? fileURLToPath(location) : location
    const inside = relative(dir, path)
    if (inside.startsWith('..') || /(^|[\\/])(node_modules|tp_data|tidepool)[\\/]/.test(inside)) continue
    return {
      file: inside.split(sep).join('/'),
      line: Number(line),
      column: Number(column),
      source: sourceAround(path, Number(line)),
    }
  }
  return undefined
}

/** What the page shows besides the error itself, in development. */
export interface Detail {
  place?: Place | undefined
  stack?: string
  request?: { method: string; path: string; query: unknown; body: unknown }
}

const style = new Html(`
  :root { color-scheme: light dark; --ink: #16222e; --dim: #5c6b7a; --line: #d9e0e7; --bad: #b3261e; --back: #fff; --soft: #f3f6f9 }
  @media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9fb0c0; --line: #2c3a47; --bad: #ff8a80; --back: #10181f; --soft: #17212b } }
  * { box-sizing: border-box }
  body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
  main { max-width: 860px; margin: 0 auto; padding: 12vh 20px 40px }
  h1 { font-size: 1.5rem; line-height: 1.3; margin: 0 0 .6rem; overflow-wrap: anywhere }
  .code { color: var(--bad); font: 600 .85rem ui-monospace, monospace; margin: 0 0 .5rem }
  .hint { color: var(--dim); margin: 0 0 1.5rem }
  pre { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: 12px; overflow-x: auto; font: 13px/1.6 ui-monospace, monospace; margin: 0 0 1.2rem }
  pre b { color: var(--bad) }
  h2 { font-size: .9rem; color: var(--dim); margin: 1.5rem 0 .4rem; font-weight: 600 }
  a { color: inherit }`)

function frame(place: Place): Html {
  const width = String(place.source.at(-1)?.number ?? 0).length
  const lines = place.source.map(({ number, text }) => {
    const row = `${number === place.line ? '>' : ' '} ${String(number).padStart(width)} | ${text}\n`
    return number === place.line ? html`<b>${row}</b>` : html`${row}`
  })
  return html`<h2>${place.file}:${place.line}:${place.column}</h2><pre>${lines}</pre>`
}

/** The page for an error. `detail` is given in development only. */
export function errorPage(status: number, body: ErrorBody, detail?: Detail): string {
  const { place, stack, request } = detail ?? {}
  return String(html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${status} ${body.error}</title><style>${style}</style></head><body><main>
<p class="code">${status} ${body.code}</p>
<h1>${body.error}</h1>
<p class="hint">${body.hint}${body.id && html` <span>Id: ${body.id}</span>`}</p>
${place && frame(place)}
${body.issues && html`<h2>Issues</h2><pre>${body.issues.map(({ path, message }) => `${path.join('.')}: ${message}\n`)}</pre>`}
${body.next && html`<h2>Try</h2><pre>${body.next.join('\n')}</pre>`}
${request && html`<h2>Request</h2><pre>${request.method} ${request.path}\n${JSON.stringify({ query: request.query, body: request.body }, null, 2)}</pre>`}
${stack && html`<h2>Stack</h2><pre>${stack}</pre>`}
</main></body></html>
`)
}
