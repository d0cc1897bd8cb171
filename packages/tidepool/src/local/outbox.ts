/**
 * Mail of the local backend: one JSON file a mail in `tp_data/outbox/`, named so that names sort by time, and
 * delivery by SMTP when the secret `smtp_url` is set.
 */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Mail, Mailbox, SentMail } from '../backend.ts'
import { TpError } from '../errors.ts'

const require = createRequire(import.meta.url)

async function deliver(url: string, from: string, mail: Mail): Promise<void> {
  const { createTransport }: typeof import('nodemailer') = require('nodemailer')
  const transport = createTransport(url)
  try {
    await transport.sendMail({
      from,
      to: mail.to,
      subject: mail.subject,
      text: mail.text,
      ...(mail.html !== undefined && { html: mail.html }),
      attachments: (mail.attachments ?? []).map((each) => ({ ...each, encoding: 'base64' })),
    })
  } catch (cause) {
    throw new TpError('http_failed', 'The mail server did not take the mail', {
      cause,
      hint: 'Check the secret smtp_url.',
    })
  } finally {
    transport.close()
  }
}

/** Opens the outbox in `dir`. */
export function createOutbox(dir: string, secrets: Readonly<Record<string, string>>): Mailbox {
  async function keep(mail: SentMail): Promise<void> {
    const file = join(dir, `${mail.id}.json`)
    await writeFile(`${file}.new`, `${JSON.stringify(mail, null, 2)}\n`, { mode: 0o600, flush: true })
    await rename(`${file}.new`, file)
  }

  async function get(id: string): Promise<SentMail | undefined> {
    if (!/^[\w-]+$/.test(id)) return undefined
    try {
      const mail: SentMail = JSON.parse(await readFile(join(dir, `${id}.json`), 'utf8'))
      return mail
    } catch {
      return undefined
    }
  }

  return {
    get,
    async send(mail) {
      await mkdir(dir, { recursive: true, mode: 0o700 })
      const at = Date.now()
      const id = `${new Date(at).toISOString().replace(/\D/g, '')}-${randomBytes(4).toString('hex')}`
      const smtp = secrets.smtp_url
      const sent: SentMail = { ...mail, id, at, status: smtp ? 'sent' : 'kept' }
      if (!smtp) {
        await keep(sent)
        return sent
      }
      try {
        await deliver(smtp, secrets.smtp_from ?? 'tidepool@localhost', mail)
        await keep(sent)
      } catch (error) {
        await keep({ ...sent, status: 'failed' })
        throw error
      }
      return sent
    },
    async list({ limit = 100, before } = {}) {
      const names = await readdir(dir).catch(() => [])
      const ids = names
        .filter((name) => name.endsWith('.json'))
        .map((name) => name.slice(0, -5))
        .filter((id) => before === undefined || id < before)
        .sort()
        .reverse()
        .slice(0, limit)
      const mails = await Promise.all(ids.map(get))
      return mails.filter((mail) => mail !== undefined)
    },
  }
}
