/**
 * The pages under /_auth/ and /_pay/: plain forms that work without script, in the app's theme. Nothing on them runs:
 * the default theme is sent with a policy that allows its own style sheet and nothing else.
 */
import { createHash } from 'node:crypto'
import { Html, html } from '../html.ts'
import type { Pod } from '../pod.ts'
import { type Reply, type ReplyOptions, reply } from '../reply.ts'

const style = `
:root{color-scheme:light dark;--bg:light-dark(#f6f5f2,#15161a);--card:light-dark(#fff,#1d1f25);--text:light-dark(#1c1d21,#e9e8e6);--soft:light-dark(#66676e,#9a9ba3);--line:light-dark(#dcd8d2,#363943);--bad:light-dark(#a3262a,#ff9c98);font:17px/1.6 system-ui,sans-serif}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--bg);color:var(--text);padding:1.25rem}
main{width:100%;max-width:25rem;background:var(--card);border:1px solid var(--line);border-radius:1rem;padding:1.75rem}
h1{font-size:1.5rem;line-height:1.2;margin:0 0 1rem;text-wrap:balance}
p{margin:.75rem 0}
label{display:block;margin:.9rem 0;font-weight:600}
input{display:block;width:100%;margin-top:.25rem;font:inherit;padding:.55rem .7rem;border:1px solid var(--line);border-radius:.5rem;background:transparent;color:inherit}
button,.button{display:block;width:100%;text-align:center;margin:1rem 0 0;padding:.65rem 1rem;border:0;border-radius:.5rem;background:var(--accent);color:var(--on-accent);font:inherit;font-weight:600;cursor:pointer;text-decoration:none}
.quiet{background:none;color:inherit;border:1px solid var(--line);font-weight:400}
a{color:var(--accent)}
a.button{color:var(--on-accent)}
a.quiet{color:inherit}
.soft{color:var(--soft);font-size:.95rem}
.links{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin-top:1.25rem}
[role=alert]{color:var(--bad);font-weight:600}
ul{padding:0;list-style:none}
li{border-top:1px solid var(--line);padding:.75rem 0}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
`

/**
 * A page in the app's auth theme.
 * @param content what `{content}` of the theme stands for
 */
export function authPage(pod: Pod, title: string, content: Html, options: ReplyOptions = {}): Reply {
  const { page, accent, css } = pod.auth?.theme ?? {}
  const headers: Record<string, string | number | readonly string[]> = {
    'cache-control': 'no-store',
    'referrer-policy': 'same-origin',
  }
  if (page !== undefined) {
    const filled = page
      .replaceAll('{title}', String(html`${title}`))
      // As a function, so that nothing in the content is taken for a replacement pattern.
      .replaceAll('{content}', () => String(content))
    headers['content-security-policy'] = "frame-ancestors 'none'; base-uri 'none'"
    return reply(new Html(filled), { ...options, headers: { ...headers, ...options.headers } })
  }
  const colours = accent
    ? `:root{--accent:${accent};--on-accent:#fff}`
    : ':root{--accent:light-dark(#0b6e75,#4fc3c9);--on-accent:light-dark(#fff,#0d1a1b)}'
  const sheet = `${style}${colours}${css ?? ''}`.replaceAll('</', '<\\/')
  const hash = createHash('sha256').update(sheet).digest('base64')
  headers['content-security-policy'] =
    `default-src 'none'; style-src 'sha256-${hash}'; img-src 'self' https: data:; font-src 'self' https:; base-uri 'none'; frame-ancestors 'none'`
  const document = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${new Html(sheet)}</style>
</head>
<body><main><h1>${title}</h1>${content}</main></body>
</html>
`
  return reply(document, { ...options, headers: { ...headers, ...options.headers } })
}

/** What went wrong with a form, for its page. */
export function alert(message: string | undefined): Html | null {
  return message === undefined ? null : html`<p role="alert">${message}</p>`
}

/** A form of hidden fields and a button: for links that must not act by being opened. */
export function confirmForm(action: string, fields: Record<string, string>, button: string): Html {
  const hidden = Object.entries(fields).map(
    ([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`,
  )
  return html`<form method="post" action="${action}">${hidden}<button>${button}</button></form>`
}
