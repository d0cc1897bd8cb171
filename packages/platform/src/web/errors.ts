// Errors for people: the same sentence, code and hint as the API's.
import type { ServerResponse } from 'node:http'
import type { Caller } from '../agents.ts'
import { html, page, sendPage } from './page.ts'

/** Sends an error as a page. @param body as `errorBody` makes it */
export function errorPage(
  res: ServerResponse,
  status: number,
  body: { error: string; code: string; hint?: string | undefined; id?: string | undefined },
  caller?: Caller,
): void {
  const content = html`<div class="narrow">
<p class="overline">${status} ${body.code}</p>
<h1>${body.error}</h1>
${body.hint && html`<p>${body.hint}</p>`}
${body.id && html`<p>Id: <code>${body.id}</code></p>`}
<p><a href="/">Start page</a> · <a href="/docs/api">API</a></p>
</div>`
  sendPage(res, status, page({ title: body.error.replace(/\.$/, ''), caller }, content))
}
