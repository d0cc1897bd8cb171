/**
 * Pages of the runtime itself (login, payments, admin, /_dev): plain HTML with one style sheet, and a policy that lets
 * nothing else run or load, whatever stored data they show.
 */
import { createHash } from 'node:crypto'
import { Html, html } from './html.ts'
import { type Reply, type ReplyOptions, reply } from './reply.ts'

/** Colours and type that all of them share. */
export const baseStyle = `
:root{color-scheme:light dark;--bg:light-dark(#f6f5f2,#15161a);--card:light-dark(#fff,#1d1f25);--text:light-dark(#1c1d21,#e9e8e6);--soft:light-dark(#66676e,#9a9ba3);--line:light-dark(#dcd8d2,#363943);--bad:light-dark(#a3262a,#ff9c98);--accent:light-dark(#0b6e75,#4fc3c9);--on-accent:light-dark(#fff,#0d1a1b);font:17px/1.6 system-ui,sans-serif}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--text)}
a{color:var(--accent)}
.soft{color:var(--soft)}
[role=alert]{color:var(--bad);font-weight:600}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
`

/**
 * Makes a page.
 * @param style further CSS, by the pod's author or us: never from stored data
 */
export function strictPage(title: string, style: string, body: Html, options: ReplyOptions = {}): Reply {
  const sheet = `${baseStyle}${style}`.replaceAll('</', '<\\/')
  const hash = createHash('sha256').update(sheet).digest('base64')
  const document = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${new Html(sheet)}</style>
</head>
<body>${body}</body>
</html>
`
  return reply(document, {
    ...options,
    headers: {
      'cache-control': 'no-store',
      'referrer-policy': 'same-origin',
      'content-security-policy': `default-src 'none'; style-src 'sha256-${hash}'; img-src 'self' https: data:; font-src 'self' https:; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'`,
      ...options.headers,
    },
  })
}
