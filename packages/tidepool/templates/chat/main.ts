// A chat: rooms, names, pictures, and new messages on everybody's page at once over Server-Sent Events.
import { EventEmitter } from 'node:events'
import tp from 'tidepool'

interface Message {
  name: string
  text: string
  /** Address of a picture, or null. */
  picture: string | null
  at: number
}

const kept = 200
// Wakes the streams of this process at once. Messages that another replica took are found by looking every second.
const news = new EventEmitter().setMaxListeners(0)

const clean = (value: unknown, length: number) =>
  String(value ?? '')
    .trim()
    .slice(0, length)
const isRoom = (room: string) => /^[a-z0-9-]{1,30}$/.test(room)
const messagesOf = (room: string) => `message:${room}:`
const shown = ({ key, value }: { key: string; value: Message }) => ({
  ...value,
  id: key.slice(key.lastIndexOf(':') + 1),
})

tp.route('/', async (req) => {
  const rooms = [...new Set((await tp.db.keys('message:')).map((key) => key.split(':')[1]))]
  return tp.render('home.html', { rooms: rooms.length > 0 ? rooms : ['lobby'], name: req.cookies.name })
})

tp.route('/enter', { methods: ['POST'] }, (req) => {
  const name = clean(req.body.name, 40)
  const room =
    clean(req.body.room, 30)
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, '-') || 'lobby'
  if (!name) return tp.redirect('/')
  return tp.reply('', { status: 303, headers: { location: `/room/${room}` }, cookies: { name } })
})

tp.route('/room/:room', { methods: ['GET', 'POST'], maxUpload: 5 * 1024 * 1024 }, async (req, { room }) => {
  const name = clean(req.cookies.name, 40)
  if (!isRoom(room)) return 404
  if (!name) return tp.redirect('/')
  if (req.method === 'POST') {
    const text = clean(req.body.text, 2000)
    const upload = req.files.picture
    const picture = upload && upload.size > 0 && upload.contentType.startsWith('image/') ? upload.url : null
    if (upload && !picture) await tp.files.delete(upload.name)
    if (!text && !picture) return tp.redirect(`/room/${room}`)
    // Numbered by the database: one order for everybody.
    const number = await tp.db.increment(`count:${room}`)
    const message: Message = { name, text, picture, at: Date.now() }
    await tp.db.set(messagesOf(room) + String(number).padStart(12, '0'), message)
    news.emit(room)
    return req.headers.accept?.includes('json') ? 204 : null
  }
  const messages = await tp.db.prefix<Message>(messagesOf(room), { reverse: true, limit: 50 })
  return tp.render('room.html', { room, name, messages: messages.reverse().map(shown) })
})

/** Until there may be something new in a room: after a message, after a second, or when the reader is gone. */
function whenever(room: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      news.off(room, done)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, 1000)
    news.on(room, done)
    signal.addEventListener('abort', done)
  })
}

/** New messages, beyond the last one that the page has. */
tp.route('/room/:room/live', async function* (req, { room }) {
  if (!isRoom(room)) return
  let after = messagesOf(room) + clean(req.query.after, 20)
  while (!req.signal.aborted) {
    const fresh = await tp.db.prefix<Message>(messagesOf(room), { after, limit: 50 })
    for (const entry of fresh) {
      after = entry.key
      yield shown(entry)
    }
    if (fresh.length === 0) await whenever(room, req.signal)
  }
})

tp.background({ seconds: 300 }, async function forgetOldMessages() {
  const rooms = new Set((await tp.db.keys('message:')).map((key) => key.split(':')[1] ?? ''))
  for (const room of rooms) {
    const old = (await tp.db.keys(messagesOf(room))).slice(0, -kept)
    await tp.db.batch(old.map((key) => ({ op: 'delete' as const, key })))
  }
})
