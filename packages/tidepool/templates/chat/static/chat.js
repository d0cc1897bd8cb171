// Without this script the page works by reloading.
const list = document.querySelector('#messages')
const form = document.querySelector('#say')
const status = document.querySelector('#status')
const live = `${location.pathname}/live`
const lastId = () => list.lastElementChild?.dataset.id ?? ''

function show({ id, name, text, picture }) {
  if (id <= lastId()) return
  const item = document.createElement('li')
  item.dataset.id = id
  const author = document.createElement('strong')
  author.textContent = name
  item.append(author)
  if (text) {
    const paragraph = document.createElement('p')
    paragraph.textContent = text
    item.append(paragraph)
  }
  if (picture) {
    const image = document.createElement('img')
    image.src = picture
    image.alt = `A picture from ${name}`
    item.append(image)
  }
  list.append(item)
  item.scrollIntoView({ block: 'end' })
}

// Opened anew by hand, so that it goes on after the last message that is shown.
function listen() {
  const source = new EventSource(`${live}?after=${lastId()}`)
  source.onopen = () => {
    status.textContent = ''
  }
  source.onmessage = (event) => show(JSON.parse(event.data))
  source.onerror = () => {
    source.close()
    status.textContent = 'Not connected; trying again …'
    setTimeout(listen, 1000)
  }
}

form.addEventListener('submit', async (event) => {
  event.preventDefault()
  const answer = await fetch(location.pathname, {
    method: 'POST',
    headers: { accept: 'application/json' },
    body: new FormData(form),
  }).catch(() => undefined)
  status.textContent = answer?.ok ? '' : 'That was not sent; try again.'
  if (answer?.ok) form.reset()
})
listen()
list.lastElementChild?.scrollIntoView({ block: 'end' })
