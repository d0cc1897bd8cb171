// Bare Hono, doing what the pod of the benchmark does.
import { serve } from '@hono/node-server'
import { Hono } from 'hono'

const items = new Map(Array.from({ length: 100 }, (_, n) => [`item:${n}`, { n, name: `item ${n}` }]))
const app = new Hono()
app.get('/', (c) => c.html('<h1>Hello</h1>'))
app.get('/item/:id', async (c) => c.json(items.get(`item:${c.req.param('id')}`)))
app.post('/sum', async (c) => {
  const body = await c.req.json()
  return c.json({ sum: body.a + body.b.length })
})
serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) => console.log(JSON.stringify({ port })))
