// Numbers and times as people read them.
import { type Html, html } from './page.ts'

/** 12.3 MB */
export function bytes(count: number | null | undefined): string {
  if (count === null || count === undefined) return '–'
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let value = count
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

/** 340 ms, 1.2 s, 3 min */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return '–'
  if (ms < 10) return `${ms.toFixed(1)} ms`
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`
  return `${Math.round(ms / 86_400_000)} days`
}

/** 12,345 */
export const count = (value: number): string => value.toLocaleString('en-US')

/** How long ago something was, with the time itself for who wants it. */
export function ago(time: string | Date): Html {
  const iso = typeof time === 'string' ? time : time.toISOString()
  const ms = Date.now() - Date.parse(iso)
  const said = ms < 60_000 ? 'just now' : `${duration(Math.trunc(ms / 60_000) * 60_000)} ago`
  return html`<time datetime="${iso}" title="${iso}">${said}</time>`
}

/** A state as a word with its colour. */
export const badge = (state: string): Html =>
  html`<span class="badge ${state}"><span class="dot" aria-hidden="true"></span>${state}</span>`

/** podsCreated → pods created */
export const words = (name: string): string => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
