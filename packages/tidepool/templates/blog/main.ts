// A blog: posts are written at /_admin/ in Markdown and shown here, with tags, pages and a feed.
import { readFile } from 'node:fs/promises'
import tp from 'tidepool'

interface Post {
  title: string
  body: string
  /** 2026-11-21 */
  date: string
  /** Separated by commas. */
  tags: string
  published: boolean
}

const site = { title: 'Field Notes', about: 'Short posts about things that took a while to find out.' }
const perPage = 10

// Open while developing; in production behind the key that the log shows at the start.
tp.admin = {
  models: {
    post: {
      fields: { title: 'string', body: 'text', date: 'date', tags: 'string', published: 'bool' },
      display: ['title', 'date', 'published'],
    },
  },
}

if (await tp.db.setIfAbsent('seeded', true)) {
  const body = await readFile('posts/hello.md', 'utf8')
  const hello: Post = { title: 'Hello', body, date: '2026-01-05', tags: 'writing', published: true }
  const draft: Post = {
    title: 'A draft',
    body: 'Not shown until it is published.',
    date: '2026-01-06',
    tags: '',
    published: false,
  }
  await tp.db.batch([
    { op: 'setIfAbsent', key: 'post:hello', value: hello },
    { op: 'setIfAbsent', key: 'post:a-draft', value: draft },
  ])
}

const tagsOf = (post: Post) =>
  post.tags
    .split(',')
    .map((tag) => tag.trim())
    .filter(Boolean)

/** Published posts, newest first. */
async function published(tag?: string) {
  const posts = await tp.db.prefix<Post>('post:')
  return posts
    .map(({ key, value }) => ({ ...value, slug: key.slice('post:'.length), tags: tagsOf(value) }))
    .filter((post) => post.published && (tag === undefined || post.tags.includes(tag)))
    .sort((a, b) => b.date.localeCompare(a.date))
}

tp.route('/', async (req) => {
  const page = Math.max(1, Number(req.query.page) || 1)
  const { tag } = req.query
  const posts = await published(tag)
  return tp.render('home.html', {
    site,
    tag,
    page,
    posts: posts.slice((page - 1) * perPage, page * perPage),
    older: posts.length > page * perPage,
  })
})

tp.route('/post/:slug', async (_req, { slug }) => {
  const post = await tp.db.get<Post>(`post:${slug}`)
  if (!post?.published) return tp.reply(tp.render('missing.html', { site }), { status: 404 })
  return tp.render('post.html', { site, post: { ...post, tags: tagsOf(post) } })
})

tp.route('/feed.xml', async () => {
  const items = (await published()).slice(0, 20).map(
    (post) => tp.html`<item>
      <title>${post.title}</title>
      <link>${tp.url(`/post/${post.slug}`)}</link>
      <guid isPermaLink="false">${post.slug}</guid>
      <pubDate>${new Date(post.date).toUTCString()}</pubDate>
      <description>${String(tp.markdown(post.body))}</description>
    </item>`,
  )
  const feed = tp.html`<?xml version="1.0" encoding="utf-8"?>
<rss version="2.0"><channel>
  <title>${site.title}</title><description>${site.about}</description><link>${tp.url('/')}</link>
  ${items}
</channel></rss>`
  return tp.reply(String(feed), { headers: { 'content-type': 'application/rss+xml; charset=utf-8' } })
})
