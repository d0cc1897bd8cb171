// Small things that every view is made of.
import { signal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import type { CallError } from '../api.ts'
import { exact, relative } from '../format.ts'

/** The time, every second. */
export const now = signal(Date.now())
setInterval(() => {
  if (!document.hidden) now.value = Date.now()
}, 1_000)

/** A status as a word with its colour. */
export function Status({ of }: { of: string }) {
  return (
    <span class={`status ${of}`}>
      <span class="dot" aria-hidden="true" />
      {of.replace('_', ' ')}
    </span>
  )
}

/** A point in time: how long ago, and exactly on demand. */
export function Ago({ at }: { at: string }) {
  return (
    <time dateTime={at} title={exact(at)}>
      {relative(at, now.value)}
    </time>
  )
}

/** What went wrong and what to do about it. */
export function Problem({ error }: { error: CallError | undefined }) {
  if (!error) return null
  return (
    <div class="problem" role="alert">
      <strong>{error.message}</strong> {error.hint}
    </div>
  )
}

/** Says something to those who do not see the page change. */
export const announcement = signal('')

/**
 * A button that copies a text.
 *
 * @param name what it is called where its label says too little
 */
export function Copy({ text, label = 'Copy', name }: { text: string | (() => string); label?: string; name?: string }) {
  const [copied, setCopied] = useState(false)
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined)
  useEffect(() => () => clearTimeout(timer.current), [])
  const copy = async () => {
    await copyText(typeof text === 'string' ? text : text())
    setCopied(true)
    announcement.value = 'Copied.'
    timer.current = setTimeout(() => setCopied(false), 1_500)
  }
  return (
    <button type="button" class="quiet" aria-label={name} onClick={copy}>
      {copied ? 'Copied' : label}
    </button>
  )
}

/** Puts text on the clipboard, also on plain http, where browsers have no clipboard for pages. */
export async function copyText(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    const area = document.createElement('textarea')
    area.value = text
    document.body.append(area)
    area.select()
    document.execCommand('copy')
    area.remove()
  }
}

/** A command to copy. */
export function Command({ text }: { text: string }) {
  return (
    <div class="command">
      <pre>
        <code>{text}</code>
      </pre>
      <Copy text={text} label="Copy" />
    </div>
  )
}

/** What stands where nothing is yet: what it would be, and how to make the first. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <section class="empty">
      <h2>{title}</h2>
      {children}
    </section>
  )
}

/** The head of a view. */
export function Heading({ title, children }: { title: string; children?: ComponentChildren }) {
  useEffect(() => {
    document.title = `${title} · Tidebase Studio`
  }, [title])
  return (
    <header class="heading">
      <h1>{title}</h1>
      {children}
    </header>
  )
}
