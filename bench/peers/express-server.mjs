// Express 5, doing what the pod of the benchmark does.
import express from 'express'

const items = new Map(Array.from({ length: 100 }, (_, n) => [`item:${n}`, { n, name: `item ${n}` }]))
const app = express()
app.get('/', (_req, res) => res.send('<h1>Hello</h1>'))
app.get('/item/:id', async (req, res) => res.json(items.get(`item:${req.params.id}`)))
app.post('/sum', express.json(), (req, res) => res.json({ sum: req.body.a + req.body.b.length }))
const server = app.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })))
