// Mail of pods and of the platform itself: kept in the database, and handed to SMTP_URL when there is one; without it
// the operator reads it there.
import { randomUUID } from 'node:crypto'
import { createTransport } from 'nodemailer'
import type { Mail, SentMail } from 'tidepool/kit'
import type { Database } from './db.ts'
import { PlatformError } from './errors.ts'
import { limitUse } from './limits.ts'

const perDay = { max: 100, seconds: 86_400 }

export interface MailOptions {
  /** smtp://user:password@host:port */
  smtpUrl?: string
  /** The sender's address. */
  from: string
}

interface Row {
  id: string
  mail: Mail
  status: SentMail['status']
  at: Date
}

const sent = ({ id, mail, status, at }: Row): SentMail => ({ ...mail, id, at: at.getTime(), status })

/** Makes the mailer. */
export function createMailer(db: Database, { smtpUrl, from }: MailOptions) {
  const transport = smtpUrl
    ? createTransport({ url: smtpUrl, disableFileAccess: true, disableUrlAccess: true })
    : undefined

  async function find(pod: string | null, id: string): Promise<SentMail | undefined> {
    const [row] = await db.query<Row>(
      'select id, mail, status, at from platform.mails where id = $2 and pod is not distinct from $1',
      [pod, id],
    )
    return row && sent(row)
  }

  /**
   * Keeps a mail and sends it.
   * @param pod who sends it; null: the platform
   * @param request id of the call, so that it may be repeated (`retry`)
   * @throws PlatformError `rate_limited` beyond 100 a day and pod, `unavailable` when the mail server refuses it
   */
  async function send(
    pod: string | null,
    mail: Mail,
    request: string = randomUUID(),
    retry = false,
  ): Promise<SentMail> {
    if (retry) {
      const [row] = await db.query<Row>(
        `select id, mail, status, at from platform.mails
          where pod is not distinct from $1 and id like '%-' || $2 and at > now() - interval '1 hour'`,
        [pod, request],
      )
      if (row) return sent(row)
    }
    if (pod) await limitUse(db, `mail/${pod}`, [perDay], 'Mails of this pod')
    // Sorts by time.
    const id = `${new Date().toISOString().replace(/\D/g, '')}-${request}`
    const [row] = await db.query<Row>(
      'insert into platform.mails (id, pod, mail, status) values ($1, $2, $3, $4) returning id, mail, status, at',
      [id, pod, JSON.stringify(mail), transport ? 'sent' : 'kept'],
    )
    if (!row) throw new PlatformError('internal')
    if (transport) {
      try {
        const attachments = (mail.attachments ?? []).map((each) => ({ ...each, encoding: 'base64' }))
        await transport.sendMail({ from, ...mail, attachments })
      } catch (cause) {
        await db.query("update platform.mails set status = 'failed' where id = $1", [id])
        throw new PlatformError('unavailable', 'The mail server did not take the mail.', { cause })
      }
    }
    return sent(row)
  }

  return {
    /** Whether mail leaves this machine. */
    delivers: transport !== undefined,
    send,
    find,
    /** A mail of anybody, for the operator. */
    async any(id: string): Promise<SentMail | undefined> {
      const [row] = await db.query<Row>('select id, mail, status, at from platform.mails where id = $1', [id])
      return row && sent(row)
    },
    /** Newest first; of one pod, or (undefined) of all and the platform. */
    async list(pod: string | undefined, { limit = 100, before }: { limit?: number; before?: string } = {}) {
      const rows = await db.query<Row & { pod: string | null }>(
        `select id, pod, mail, status, at from platform.mails
          where ($1::text is null or pod = $1) and ($2::text is null or id < $2) order by id desc limit $3`,
        [pod ?? null, before ?? null, Math.min(1000, Math.max(1, Math.trunc(limit)))],
      )
      return rows.map((row) => ({ ...sent(row), pod: row.pod }))
    },
    close: () => transport?.close(),
  }
}

export type Mailer = ReturnType<typeof createMailer>
