/**
 * `tp.email`: checks a mail and hands it to the backend's mailbox, at most 5 times per handler call.
 */
import { lookup } from 'mrmime'
import type { Mailbox, SentMail } from './backend.ts'
import { TpError } from './errors.ts'
import { Html } from './html.ts'
import { currentScope } from './scope.ts'

const mailsPerCall = 5

export interface EmailOptions {
  /** The same as HTML. */
  html?: string | Html
  /** Files to send along; the type is told from the name. */
  attachments?: { filename: string; content: string | Uint8Array; contentType?: string }[]
}

/**
 * An address as it can be mailed to: trimmed.
 * @throws TpError `invalid`
 */
export function checkAddress(address: string): string {
  // What came with a request may be anything.
  const trimmed = String(address).trim()
  if (trimmed.length > 254 || !/^[^\s@<>(),;:\\"[\]]+@[^\s@<>(),;:\\"[\]]+\.[^\s@<>(),;:\\"[\]]+$/.test(trimmed))
    throw new TpError('invalid', `"${trimmed.slice(0, 80)}" is not an e-mail address`, {
      hint: 'Use one address, like someone@example.com.',
    })
  return trimmed
}

/**
 * Sends a mail. While developing it is printed, kept in tp_data/outbox/ and shown at /_dev/mail.
 * @param body plain text, or `tp.html` for a mail in HTML
 * @returns `{id, status}`, status 'sent' or (without a mail server) 'kept'
 * @throws TpError `mail_limit` for the sixth mail in one handler call, `rate_limited` beyond 100 a day, `invalid`
 * @example await tp.email('ada@example.com', 'Welcome', 'Good to have you here.')
 */
export async function sendEmail(
  mailbox: Mailbox,
  to: string,
  subject: string,
  body: string | Html,
  { html, attachments = [] }: EmailOptions = {},
): Promise<Pick<SentMail, 'id' | 'status'>> {
  const scope = currentScope()
  if (scope.mails >= mailsPerCall) throw new TpError('mail_limit', `A handler call sends at most ${mailsPerCall} mails`)
  scope.mails += 1
  if (typeof subject !== 'string' || !(typeof body === 'string' || body instanceof Html))
    throw new TpError('invalid', `tp.email takes a subject and a text, not ${typeof subject} and ${typeof body}`, {
      hint: 'Call it as tp.email(to, subject, text), with tp.html`…` instead of the text for a mail in HTML.',
    })
  const rich = html ?? (body instanceof Html ? body : undefined)
  const { id, status } = await mailbox.send({
    to: checkAddress(to),
    // A line break in a subject would start another header.
    subject: subject.replace(/\s+/g, ' ').trim(),
    text: body instanceof Html ? textOf(String(body)) : body,
    ...(rich !== undefined && { html: String(rich) }),
    ...(attachments.length > 0 && {
      attachments: attachments.map(({ filename, content, contentType }) => ({
        filename,
        content: Buffer.from(content).toString('base64'),
        contentType: contentType ?? lookup(filename) ?? 'application/octet-stream',
      })),
    }),
  })
  return { id, status }
}

/** A readable text for programs that show no HTML: links keep their address. */
function textOf(markup: string): string {
  return markup
    .replace(/<(style|script|head)\b[\s\S]*?<\/\1>/gi, '')
    .replace(/<a\b[^>]*\bhref="([^"]*)"[^>]*>([\s\S]*?)<\/a>/gi, '$2 ($1)')
    .replace(/<\/(p|div|h\d|li|tr)>|<br\s*\/?>/gi, '\n')
    .replace(/<[^>]*>/g, '')
    .replace(/&lt;/g, '<')
    .replace(/&gt;/g, '>')
    .replace(/&quot;/g, '"')
    .replace(/&#39;/g, "'")
    .replace(/&amp;/g, '&')
    .replace(/[ \t]+/g, ' ')
    .replace(/\n\s*\n\s*/g, '\n\n')
    .trim()
}
