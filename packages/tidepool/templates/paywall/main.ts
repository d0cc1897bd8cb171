// A membership blog: some posts are free, the others for members. Buying makes the account; a mailed link logs in.
import { readFile } from 'node:fs/promises'
import tp, { type Request } from 'tidepool'

interface Post {
  title: string
  body: string
  /** 2026-11-21 */
  date: string
  tier: 'free' | 'members'
}

const site = { title: 'The Long Tide', about: 'Essays on building things that last.' }

tp.auth = 'paywall'
tp.payments = {
  products: [
    { id: 'member', name: 'Membership', price: 500, recurring: 'month', description: 'Every essay, every month.' },
    { id: 'lifetime', name: 'For life', price: 9900, description: 'Every essay, for good. Paid once.' },
  ],
}
// Put your own address here: it opens /_admin/ after a login by mailed link.
const owner = 'admin@example.com'
tp.admin = {
  users: [owner],
  models: {
    post: {
      fields: { title: 'string', body: 'text', date: 'date', tier: 'choice:free,members' },
      display: ['title', 'tier', 'date'],
    },
  },
}
await tp.createUser(owner)

if (await tp.db.setIfAbsent('seeded', true)) {
  const posts = [
    { slug: 'welcome', title: 'Welcome', date: '2026-01-05', tier: 'free' },
    { slug: 'slow-software', title: 'Slow software', date: '2026-01-12', tier: 'members' },
  ]
  for (const { slug, ...post } of posts)
    await tp.db.setIfAbsent(`post:${slug}`, { ...post, body: await readFile(`posts/${slug}.md`, 'utf8') })
}

const isMember = ({ user }: Request) =>
  user !== null && (user.subscriptions.includes('member') || user.purchased.includes('lifetime'))

tp.route('/', async (req) => {
  const posts = (await tp.db.prefix<Post>('post:'))
    .map(({ key, value }) => ({ ...value, slug: key.slice('post:'.length) }))
    .sort((a, b) => b.date.localeCompare(a.date))
  return tp.render('home.html', { site, posts, user: req.user, member: isMember(req) })
})

tp.route('/post/:slug', async (req, { slug }) => {
  const post = await tp.db.get<Post>(`post:${slug}`)
  if (!post) return 404
  const member = isMember(req)
  const open = post.tier === 'free' || member
  // Visitors get the first paragraph; the rest never leaves the server.
  const body = open ? post.body : (post.body.split(/\n\s*\n/)[0] ?? '')
  return tp.render('post.html', { site, post: { ...post, body }, open, user: req.user, member })
})

tp.route('/join', (req) =>
  tp.render('join.html', { site, products: tp.payments.products, user: req.user, member: isMember(req) }),
)
