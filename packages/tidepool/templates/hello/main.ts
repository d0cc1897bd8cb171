import tp from 'tidepool'

tp.route('/', async () => {
  const visits = await tp.db.increment('visits')
  return tp.render('home.html', { visits })
})

tp.route('/api/hello/:name', (_req, { name }) => ({ hello: name }))
