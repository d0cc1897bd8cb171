/**
 * HTML that is safe to send as it is: what `tp.html`, `tp.markdown` and `tp.render` return.
 *
 * Invariant: an `Html` is only made from text written by the pod's author or text that was escaped or sanitised.
 */

/** A piece of HTML. Turns into its text wherever a string is wanted; nests in `tp.html` without being escaped again. */
export class Html {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  toString(): string {
    return this.#text
  }

  /** What `+` takes, templates included. */
  valueOf(): string {
    return this.#text
  }

  /** In JSON and in `tp.db` it is its text. */
  toJSON(): string {
    return this.#text
  }
}

const replacements: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }

/** Escapes text for HTML content and quoted attributes. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => replacements[character] ?? character)
}

function interpolate(value: unknown): string {
  if (value instanceof Html) return value.toString()
  if (Array.isArray(value)) return value.map(interpolate).join('')
  if (value === null || value === undefined || value === false || value === true) return ''
  return escapeHtml(String(value))
}

/**
 * Tagged template for HTML: every interpolation is escaped, except other `html` pieces. Arrays are joined; null,
 * undefined and booleans are left out.
 * @returns the piece; a handler may return it
 * @example html`<ul>${posts.map((post) => html`<li>${post.title}</li>`)}</ul>`
 */
export function html(strings: TemplateStringsArray, ...values: readonly unknown[]): Html {
  let text = strings[0] ?? ''
  for (const [at, value] of values.entries()) text += interpolate(value) + (strings[at + 1] ?? '')
  return new Html(text)
}
