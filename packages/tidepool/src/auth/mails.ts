/**
 * The mails of the login: short, in text and HTML, with links from the configured origin and never from a request.
 *
 * They are sent after the answer, so that it takes as long for an address with an account as for one without.
 */

import { messageOf } from '../errors.ts'
import { html } from '../html.ts'
import { countUse } from '../limits.ts'
import type { Pod } from '../pod.ts'
import { normaliseEmail } from '../users.ts'

/** Mails of a kind to one address. The window is no longer than a link is good, so that the owner always has one. */
const perAddress = { max: 5, seconds: 1800 }

const underWay = new WeakMap<Pod, Set<Promise<void>>>()

/** Does something after the answer; the pod does not stop before it is done. */
export function afterwards(pod: Pod, work: () => Promise<void>): void {
  let tasks = underWay.get(pod)
  if (!tasks) {
    const made = new Set<Promise<void>>()
    tasks = made
    underWay.set(pod, made)
    pod.onStop(async () => {
      await Promise.all(made)
    })
  }
  const mine = tasks
  const task = new Promise<void>((resolve) => setImmediate(resolve))
    .then(work)
    .catch((error: unknown) => pod.setup().log.error(`A mail was not sent: ${messageOf(error)}`))
    .finally(() => mine.delete(task))
  mine.add(task)
}

export interface LinkMail {
  subject: string
  /** One or two sentences. */
  text: string
  /** Path with its token. */
  path: string
  /** What the link does. */
  button: string
  /** How long it is good. */
  minutes: number
}

/** Mails a link, unless the address has had too many. Must not be waited for by an answer, see `afterwards`. */
export async function mailLink(pod: Pod, to: string, mail: LinkMail): Promise<void> {
  const { backend, log } = pod.setup()
  const { allowed } = await countUse(backend, `mail:${mail.subject}:${normaliseEmail(to)}`, perAddress)
  if (!allowed) return log.warn(`No more login mails to one address in this half hour`)
  const link = pod.url(mail.path)
  const good = `The link is good for ${mail.minutes} minutes, once. If you did not ask for it, ignore this mail.`
  await backend.mail.send({
    to,
    subject: mail.subject,
    text: `${mail.text}\n\n${link}\n\n${good}\n`,
    html: String(html`<p>${mail.text}</p><p><a href="${link}">${mail.button}</a></p><p>${good}</p>`),
  })
}
