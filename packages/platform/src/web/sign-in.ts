// Signing in with a key, and out. The key travels in the body of one form and is kept nowhere.
import { limitUse } from '../limits.ts'
import { beginSession, endSession } from '../sessions.ts'
import { sessionCookie } from './origin.ts'
import { commands, html } from './page.ts'
import type { Page, Visit } from './visit.ts'

/** Where to go after signing in: a page of ours, whatever the address says. */
const nextOf = (given: string | null) => (given && /^\/(pods|admin)(\/[\w-]+)*$/.test(given) ? given : '')

function form({ show }: Visit, next: string, problem?: string): void {
  show(
    'Sign in',
    html`<div class="narrow">
<h1>Sign in</h1>
<p>With a key of your agent, or the operator’s. What the key may, you may here.</p>
${problem && html`<p class="problem" role="alert">${problem}</p>`}
<form class="stack" method="post" action="/sign-in">
<input type="hidden" name="next" value="${next}">
<label>API key <input type="password" name="key" required autocomplete="current-password" spellcheck="false"></label>
<button class="primary">Sign in</button>
</form>
<h2>Where is my key?</h2>
<p>The command line keeps it, after <code>tidepool register</code>:</p>
${commands('cat ~/.config/tidepool/credentials.json', 'Command that shows your key')}
<p>The operator’s lies in the platform’s data folder:</p>
${commands('cat .tidepool/operator.key', 'Command that shows the operator’s key')}
<p>No key yet? The <a href="/quickstart">quickstart</a> begins with one.</p>
</div>`,
    { status: problem ? 401 : 200 },
  )
}

export const signInPages: readonly Page[] = [
  {
    method: 'GET',
    path: '/sign-in',
    handler: (visit) => form(visit, nextOf(visit.query.get('next'))),
  },
  {
    method: 'POST',
    path: '/sign-in',
    async handler(visit) {
      const { platform, req } = visit
      const next = nextOf(visit.form.get('next'))
      const cookie = await beginSession(platform, visit.form.get('key')?.trim() ?? '')
      if (!cookie) {
        const ip = req.socket.remoteAddress ?? ''
        await limitUse(platform.db, `sign-in/ip/${ip}`, [{ max: 300, seconds: 3600 }], 'Wrong keys from this address')
        return form(visit, next, 'This key opens nothing. Was it replaced or revoked?')
      }
      // What this browser was before ends: nobody else holds on to it.
      if (visit.cookie) await endSession(platform.db, visit.cookie)
      visit.go(next || '/pods', sessionCookie(platform, cookie))
    },
  },
  {
    method: 'POST',
    path: '/sign-out',
    async handler({ platform, cookie, go }) {
      if (cookie) await endSession(platform.db, cookie)
      go('/', sessionCookie(platform, ''))
    },
  },
]
