/**
 * The pages under /_auth/ and /_pay/: plain forms that work without script, in the app's theme.
 */
import { Html, html } from '../html.ts'
import type { Pod } from '../pod.ts'
import { type Reply, type ReplyOptions, reply } from '../reply.ts'
import { strictPage } from '../strict-page.ts'

const style = `
body{min-height:100vh;display:grid;place-items:center;padding:1.25rem}
main{width:100%;max-width:25rem;background:var(--card);border:1px solid var(--line);border-radius:1rem;padding:1.75rem}
h1{font-size:1.5rem;line-height:1.2;margin:0 0 1rem;text-wrap:balance}
p{margin:.75rem 0}
label{display:block;margin:.9rem 0;font-weight:600}
input{display:block;width:100%;margin-top:.25rem;font:inherit;padding:.55rem .7rem;border:1px solid var(--line);border-radius:.5rem;background:transparent;color:inherit}
button,.button{display:block;width:100%;text-align:center;margin:1rem 0 0;padding:.65rem 1rem;border:0;border-radius:.5rem;background:var(--accent);color:var(--on-accent);font:inherit;font-weight:600;cursor:pointer;text-decoration:none}
.quiet{background:none;color:inherit;border:1px solid var(--line);font-weight:400}
.soft{font-size:.95rem}
.links{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin-top:1.25rem}
ul{padding:0;list-style:none}
li{border-top:1px solid var(--line);padding:.75rem 0}
`

/**
 * A page in the app's auth theme.
 * @param content what `{content}` of the theme stands for
 */
export function authPage(pod: Pod, title: string, content: Html, options: ReplyOptions = {}): Reply {
  const { page, accent, css } = pod.auth?.theme ?? {}
  if (page === undefined) {
    const colour = accent ? `:root{--accent:${accent};--on-accent:#fff}` : ''
    const body = html`<main><h1>${title}</h1>${content}</main>`
    return strictPage(title, `${style}${colour}${css ?? ''}`, body, options)
  }
  const filled = page
    .replaceAll('{title}', () => String(html`${title}`))
    // As functions, so that nothing in the content is taken for a replacement pattern.
    .replaceAll('{content}', () => String(content))
  return reply(new Html(filled), {
    ...options,
    headers: {
      'cache-control': 'no-store',
      'referrer-policy': 'same-origin',
      'content-security-policy': "frame-ancestors 'none'; base-uri 'none'",
      ...options.headers,
    },
  })
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
