// The little that the platform's pages do by script; without it they work by reloading.
//
// - blocks of commands get a button that copies them
// - forms marked data-live post without leaving the page
// - an element with data-stream is kept as things are: the server sends parts of it anew, as markup that it has escaped

for (const block of document.querySelectorAll('.command')) {
  if (!navigator.clipboard) break
  const button = document.createElement('button')
  const name = block.querySelector('pre')?.getAttribute('aria-label') ?? 'Commands'
  button.type = 'button'
  button.className = 'copy'
  button.textContent = 'Copy'
  button.setAttribute('aria-label', `Copy: ${name}`)
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(block.querySelector('code')?.textContent ?? '')
    button.textContent = 'Copied'
    setTimeout(() => {
      button.textContent = 'Copy'
    }, 2_000)
  })
  block.append(button)
}

const narrow = matchMedia('(max-width: 60rem)')
const aside = document.querySelector('.aside details')
const fold = () => aside?.toggleAttribute('open', !narrow.matches)
narrow.addEventListener('change', fold)
fold()

const said = document.getElementById('said')
function say(text) {
  if (!said) return
  said.textContent = text
  said.hidden = text === ''
}

document.addEventListener('submit', async (event) => {
  const form = event.target
  if (!(form instanceof HTMLFormElement) || form.dataset.live === undefined || !document.querySelector('[data-stream]'))
    return
  event.preventDefault()
  const button = form.querySelector('button')
  const id = button?.id
  button?.setAttribute('aria-busy', 'true')
  say('')
  try {
    const answer = await fetch(form.action, {
      method: 'POST',
      body: new URLSearchParams([...new FormData(form)].map(([name, value]) => [name, String(value)])),
      headers: { accept: 'application/json' },
      redirect: 'manual',
    })
    if (answer.type !== 'opaqueredirect' && !answer.ok) {
      const { error, hint } = await answer.json()
      say(`${error} ${hint ?? ''}`)
    }
  } catch {
    say('The platform does not answer. Try again in a moment.')
  }
  // The part may have been made anew meanwhile, and the button with it.
  if (id) document.getElementById(id)?.removeAttribute('aria-busy')
})

const place = document.querySelector('[data-stream]')
const live = document.getElementById('live')
const log = document.getElementById('log')
const maxLines = 1_000

/** Replaces a part, and keeps what is opened and focused in it. */
function fill(id, markup) {
  const part = document.getElementById(id)
  if (!part) return
  const focused = part.contains(document.activeElement) ? document.activeElement?.id : ''
  const opened = [...part.querySelectorAll('details[open] > summary[id]')].map((summary) => summary.id)
  part.innerHTML = markup
  for (const each of opened) document.getElementById(each)?.parentElement?.setAttribute('open', '')
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true })
}

function write(markup, anew) {
  if (!log) return
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40
  if (anew) log.innerHTML = markup
  else log.insertAdjacentHTML('beforeend', markup)
  while (log.childElementCount > maxLines) log.firstElementChild?.remove()
  const hint = document.getElementById('log-empty')
  if (hint) hint.hidden = log.childElementCount > 0
  if (atEnd || anew) log.scrollTop = log.scrollHeight
}

let stream
function follow() {
  if (!place || stream || document.hidden) return
  stream = new EventSource(place.dataset.stream)
  stream.onopen = () => {
    if (live) live.textContent = 'Live'
  }
  stream.onerror = () => {
    if (live) live.textContent = 'Connecting…'
    // Refused, not interrupted: the session is over, or the pod is gone.
    if (stream?.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 2_000)
  }
  stream.onmessage = ({ data }) => {
    const { parts, log: whole, lines, over } = JSON.parse(data)
    if (over) return location.reload()
    for (const [id, markup] of Object.entries(parts ?? {})) fill(id, markup)
    if (whole !== undefined) write(whole, true)
    if (lines !== undefined) write(lines, false)
  }
}
// A page that nobody looks at asks nothing.
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) return follow()
  stream?.close()
  stream = undefined
})
if (log) log.scrollTop = log.scrollHeight
follow()
