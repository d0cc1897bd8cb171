/**
 * How the platform's pages are framed and sent. Every text in them goes through `html`, which escapes; the policy that
 * they are sent under lets nothing run but the one script file, and nobody frame them.
 */
import { createHash } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { Html, html } from 'tidepool/kit'
import type { Caller } from '../agents.ts'
import { assetPath } from '../static.ts'

export { type Html, html }

export interface Frame {
  title: string
  /** Who is signed in. */
  caller?: Caller
  /** The entry of the navigation that this page belongs to: its path. */
  here?: string
  /** Without the script: of a page whose address holds a secret. */
  still?: boolean
}

const places = (caller: Caller | undefined): [path: string, name: string][] => [
  ['/quickstart', 'Quickstart'],
  ['/docs/api', 'API'],
  ...(caller?.kind === 'agent' ? [['/pods', 'Pods'] satisfies [string, string]] : []),
  ...(caller?.kind === 'operator' ? [['/admin', 'Admin'] satisfies [string, string]] : []),
]

/** A whole page of the control plane. */
export function page({ title, caller, here, still = false }: Frame, content: Html): string {
  const signed = caller !== undefined && caller.kind !== 'nobody'
  const link = ([path, name]: [string, string]) =>
    path === here ? html`<a href="${path}" aria-current="page">${name}</a>` : html`<a href="${path}">${name}</a>`
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title === 'Tidepool' ? title : `${title} · Tidepool`}</title>
<link rel="icon" href="${assetPath('icon.svg')}">
<link rel="stylesheet" href="${assetPath('tidepool.css')}">
<link rel="stylesheet" href="${assetPath('blocks.css')}">
<link rel="stylesheet" href="${assetPath('pages.css')}">
${!still && html`<script src="${assetPath('live.js')}" defer></script>`}
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header class="top"><div class="inner">
<a class="brand" href="/"><img src="${assetPath('icon.svg')}" alt="" width="24" height="24">Tidepool</a>
<nav aria-label="Main">${places(caller).map(link)}</nav>
${
  signed
    ? html`<form method="post" action="/sign-out"><button class="quiet">Sign out</button></form>`
    : html`<a class="enter" href="/sign-in">Sign in</a>`
}
</div></header>
<main id="content" tabindex="-1">
${content}
</main>
<footer><div class="inner">For machines: <a href="/api">/api</a> <a href="/openapi.json">/openapi.json</a> <a href="/llms.txt">/llms.txt</a></div></footer>
</body>
</html>
`.toString()
}

/** What every answer of ours to a browser says, whatever it shows. */
export const guarded = {
  'x-content-type-options': 'nosniff',
  // Not no-referrer: browsers then send `Origin: null` with the forms of the page itself.
  'referrer-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
}

const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

/** Sends a page. */
export function sendPage(
  res: ServerResponse,
  status: number,
  text: string,
  headers: Record<string, string> = {},
): void {
  res.writeHead(status, {
    'content-type': 'text/html; charset=utf-8',
    'content-length': Buffer.byteLength(text),
    'content-security-policy': policy,
    ...guarded,
    ...headers,
  })
  res.end(text)
}

const noticeStyle = `:root{color-scheme:light dark;--ink:light-dark(#1c1d21,#e8e7e4);--muted:light-dark(#5f6068,#a0a3ab)}
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:12vh auto;padding:0 1.25rem;background:light-dark(#fbfaf8,#131417);color:var(--ink);overflow-wrap:anywhere}
h1{font-size:1.4rem}.muted{color:var(--muted);font-size:.9rem}`
const noticeHash = createHash('sha256').update(noticeStyle).digest('base64')

/** Sends a page that stands alone: on the address of an app, where the platform's files are not. */
export function sendNotice(
  res: ServerResponse,
  status: number,
  { title, text, code }: { title: string; text: string; code: string },
  headers: Record<string, string> = {},
): void {
  const markup = html`<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>${title}</title><style>${new Html(noticeStyle)}</style></head><body><main><h1>${title}</h1><p>${text}</p><p class="muted">${status} ${code}</p></main></body></html>`
  sendPage(res, status, markup.toString(), {
    'content-security-policy': `default-src 'none'; style-src 'sha256-${noticeHash}'; frame-ancestors 'none'; base-uri 'none'`,
    ...headers,
  })
}

/** A block of commands, which the script gives a button that copies it. */
export function commands(text: string, label = 'Commands'): Html {
  return html`<div class="command"><pre tabindex="0" role="region" aria-label="${label}"><code>${text}</code></pre></div>`
}
