// A small SaaS: accounts, a dashboard behind login, projects with tasks and attachments, and a plan that lifts a limit.
import { randomUUID } from 'node:crypto'
import tp, { type Request } from 'tidepool'

interface Project {
  name: string
  createdAt: number
}
interface Task {
  text: string
  done: boolean
}
interface Attachment {
  filename: string
  /** Its name in tp.files. */
  name: string
  size: number
}

const freeProjects = 2

tp.auth = 'standard'
tp.auth.required = ['/app', '/app/*']
tp.payments = {
  products: [{ id: 'pro', name: 'Pro', price: 900, recurring: 'month', description: 'As many projects as you like.' }],
}
// Put your own address here: it opens /_admin/ after a login.
tp.admin = { users: ['admin@example.com'] }

/** The user of a page behind login. */
function userOf(req: Request) {
  if (!req.user) throw new Error('tp.auth.required lets nobody in here without a login')
  return req.user
}
const isPro = (req: Request) => userOf(req).subscriptions.includes('pro')

// Keys begin with the user's id: nobody reaches another's records, whatever id an address carries.
const projectsOf = (req: Request) => `project:${userOf(req).id}:`
const tasksOf = (req: Request, project: string) => `task:${userOf(req).id}:${project}:`
const filesOf = (req: Request, project: string) => `attachment:${userOf(req).id}:${project}:`
const idOf = (key: string) => key.slice(key.lastIndexOf(':') + 1)
const text = (value: unknown) =>
  String(value ?? '')
    .trim()
    .slice(0, 200)

tp.route('/', (req) => tp.render('home.html', { user: req.user, product: tp.payments.products[0], freeProjects }))

tp.route('/app', { methods: ['GET', 'POST'] }, async (req) => {
  const found = await tp.db.prefix<Project>(projectsOf(req))
  const full = !isPro(req) && found.length >= freeProjects
  if (req.method === 'POST') {
    const name = text(req.body.name)
    if (name && !full) await tp.db.set(projectsOf(req) + randomUUID(), { name, createdAt: Date.now() })
    return null
  }
  const projects = await Promise.all(
    found.map(async ({ key, value }) => {
      const tasks = await tp.db.prefix<Task>(tasksOf(req, idOf(key)))
      return { ...value, id: idOf(key), open: tasks.filter((task) => !task.value.done).length, tasks: tasks.length }
    }),
  )
  projects.sort((a, b) => b.createdAt - a.createdAt)
  return tp.render('projects.html', { user: req.user, projects, full, pro: isPro(req), freeProjects })
})

tp.route('/app/:project', async (req, { project }) => {
  const found = await tp.db.get<Project>(projectsOf(req) + project)
  if (!found) return 404
  const tasks = await tp.db.prefix<Task>(tasksOf(req, project))
  const attachments = await tp.db.prefix<Attachment>(filesOf(req, project))
  return tp.render('project.html', {
    user: req.user,
    project: { ...found, id: project },
    tasks: tasks.map(({ key, value }) => ({ ...value, id: idOf(key) })),
    attachments: attachments.map(({ key, value }) => ({ ...value, id: idOf(key) })),
  })
})

tp.route('/app/:project/tasks', { methods: ['POST'] }, async (req, { project }) => {
  if (!(await tp.db.get(projectsOf(req) + project))) return 404
  const task = text(req.body.text)
  // Numbered, so that tasks are listed in the order in which they came.
  const number = await tp.db.increment(`tasks:${userOf(req).id}`)
  if (task) await tp.db.set(tasksOf(req, project) + String(number).padStart(9, '0'), { text: task, done: false })
  return tp.redirect(`/app/${project}`)
})

tp.route('/app/:project/tasks/:task', { methods: ['POST'] }, async (req, { project, task }) => {
  const key = tasksOf(req, project) + task
  if (!(await tp.db.get(key))) return 404
  if (req.body.action === 'delete') await tp.db.delete(key)
  else await tp.db.update<Task>(key, (now) => ({ text: now?.text ?? '', done: !now?.done }))
  return tp.redirect(`/app/${project}`)
})

tp.route('/app/:project/attachments', { methods: ['POST'], maxUpload: 10 * 1024 * 1024 }, async (req, { project }) => {
  const { file } = req.files
  const known = await tp.db.get(projectsOf(req) + project)
  if (file && file.size > 0 && known) {
    const { filename, name, size } = file
    await tp.db.set(filesOf(req, project) + randomUUID(), { filename, name, size })
  } else if (file) await tp.files.delete(file.name)
  return known ? tp.redirect(`/app/${project}`) : 404
})

// Through here and not by its public address: only its owner may have it.
tp.route('/app/:project/attachments/:id', async (req, { project, id }) => {
  const attachment = await tp.db.get<Attachment>(filesOf(req, project) + id)
  const content = attachment && (await tp.files.stream(attachment.name))
  if (!attachment || !content) return 404
  const filename = encodeURIComponent(attachment.filename)
  return tp.reply(content, {
    headers: {
      'content-type': 'application/octet-stream',
      'content-disposition': `attachment; filename*=UTF-8''${filename}`,
    },
  })
})

tp.route('/app/:project/delete', { methods: ['POST'] }, async (req, { project }) => {
  for (const { value } of await tp.db.prefix<Attachment>(filesOf(req, project))) await tp.files.delete(value.name)
  const keys = [...(await tp.db.keys(tasksOf(req, project))), ...(await tp.db.keys(filesOf(req, project)))]
  await tp.db.batch([...keys, projectsOf(req) + project].map((key) => ({ op: 'delete' as const, key })))
  return tp.redirect('/app')
})
