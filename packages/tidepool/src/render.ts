/**
 * `tp.render`: Nunjucks templates of the pod's `templates/` folder. Templates are the author's code: they are never
 * made from what users send.
 */
import { createRequire } from 'node:module'
import { join, relative } from 'node:path'
import type { Environment } from 'nunjucks'
import { messageOf, TpError } from './errors.ts'
import { Html } from './html.ts'
import { markdown } from './markdown.ts'

const require = createRequire(import.meta.url)

/** Makes the renderer of a pod. `fresh` reads templates anew each time, for development. */
export function createRender(dir: string, fresh: boolean): (template: string, context?: object) => Html {
  const folder = join(dir, 'templates')
  let environment: Environment | undefined

  function load(): Environment {
    const nunjucks: typeof import('nunjucks') = require('nunjucks')
    const made = new nunjucks.Environment(new nunjucks.FileSystemLoader(folder, { noCache: fresh }), {
      autoescape: true,
      throwOnUndefined: false,
    })
    // Nunjucks tells what is escaped already by this prototype; ours is to count as such wherever it lies in a context.
    Object.setPrototypeOf(Html.prototype, nunjucks.runtime.SafeString.prototype)
    made.addFilter('markdown', (text: unknown) => markdown(String(text ?? '')))
    return made
  }

  return (template, context = {}) => {
    environment ??= load()
    try {
      return new Html(environment.render(template, context))
    } catch (cause) {
      const message = messageOf(cause)
      const [, path, line] = /\(([^)]+)\)\s*\[Line (\d+)/.exec(message) ?? []
      const reason = message.split('\n').at(-1)?.trim() ?? message
      throw new TpError('template', `${template}: ${reason}`, {
        cause,
        ...(path && { file: relative(dir, path.startsWith('/') ? path : join(folder, path)) }),
        ...(line && { line: Number(line) }),
        ...(/template not found/.test(message) && { hint: `Make the file templates/${template}.` }),
      })
    }
  }
}
