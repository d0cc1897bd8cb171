/**
 * `tp.markdown`: CommonMark with tables, fenced code, links and footnotes; sanitised, because it is mostly written by
 * users.
 */
import { createRequire } from 'node:module'
import { Html } from './html.ts'

const require = createRequire(import.meta.url)

/** Loaded with the first use: parsers and sanitiser cost start-up time that most requests never need. */
function load(html: boolean): (text: string) => string {
  const MarkdownIt: typeof import('markdown-it').default = require('markdown-it')
  const footnotes: (parser: import('markdown-it').MarkdownIt) => void = require('markdown-it-footnote')
  const parser = new MarkdownIt({ html, linkify: true }).use(footnotes)
  return (text) => parser.render(text)
}

function sanitiser(): (text: string) => string {
  const sanitize: typeof import('sanitize-html') = require('sanitize-html')
  const align = { 'text-align': [/^(left|right|center)$/] }
  const options: import('sanitize-html').IOptions = {
    allowedTags: [...sanitize.defaults.allowedTags, 'img', 'del', 's'],
    allowedAttributes: {
      a: ['href', 'title', 'id', 'class'],
      img: ['src', 'alt', 'title', 'width', 'height'],
      code: ['class'],
      th: ['style'],
      td: ['style'],
      li: ['id', 'class'],
      sup: ['class'],
      section: ['class'],
      hr: ['class'],
      ol: ['start', 'class'],
    },
    allowedClasses: {
      code: ['language-*'],
      a: ['footnote-backref'],
      li: ['footnote-item'],
      sup: ['footnote-ref'],
      section: ['footnotes'],
      hr: ['footnotes-sep'],
      ol: ['footnotes-list'],
    },
    allowedStyles: { th: align, td: align },
    allowedSchemes: ['http', 'https', 'mailto', 'tel'],
  }
  return (text) => sanitize(text, options)
}

let safe: ((text: string) => string) | undefined
let unsafe: ((text: string) => string) | undefined
let clean: ((text: string) => string) | undefined

/**
 * Markdown to HTML. HTML in the text is shown as text, and nothing in it can run script; with `unsafe` it is kept.
 * @returns a piece that `tp.html` and templates do not escape again
 * @example tp.html`<article>${tp.markdown(post.body)}</article>`
 */
export function markdown(text: string, options: { unsafe?: boolean } = {}): Html {
  if (options.unsafe) {
    unsafe ??= load(true)
    return new Html(unsafe(text))
  }
  safe ??= load(false)
  clean ??= sanitiser()
  return new Html(clean(safe(text)))
}
