/**
 * Which route answers a path.
 *
 * Fixed paths are looked up in a map; patterns go through Hono's routers. A fixed path beats a pattern, and of several
 * patterns the one registered first wins. Routes may be added at any time; the pattern matcher is rebuilt then.
 */
import { RegExpRouter } from 'hono/router/reg-exp-router'
import { SmartRouter } from 'hono/router/smart-router'
import { TrieRouter } from 'hono/router/trie-router'
import { TpError } from './errors.ts'

/** Names of the parameters in a path. */
type Names<P extends string> = P extends `${infer Head}/${infer Tail}` ? Name<Head> | Names<Tail> : Name<P>
type Name<Segment extends string> = Segment extends `:${infer N}{${string}`
  ? N
  : Segment extends `:${infer N}`
    ? N
    : never

/**
 * The parameters of a path pattern: `'/post/:slug'` → `{slug: string}`. An optional parameter, `:page?`, may be
 * undefined; `:rest{.+}` takes the remaining path with its slashes.
 */
export type Params<P extends string> = string extends P
  ? Record<string, string>
  : { [N in Names<P> as N extends `${string}?` ? never : N]: string } & {
      [N in Names<P> as N extends `${infer Optional}?` ? Optional : never]?: string
    }

/** What the router knows of a route; `T` is what it carries. */
export interface Routed<T> {
  path: string
  methods: readonly string[]
  target: T
}

export type Found<T> =
  | { route: Routed<T>; params: Record<string, string> }
  /** The path exists with these methods only. */
  | { allow: readonly string[] }

const noParams: Record<string, string> = Object.freeze({})
const isPattern = (path: string): boolean => /[:*{]/.test(path)

/** Makes an empty router. */
export function createRouter<T>() {
  const fixed = new Map<string, Routed<T>[]>()
  const patterns: Routed<T>[] = []
  let matcher: SmartRouter<Routed<T>> | undefined

  function build(): SmartRouter<Routed<T>> {
    const router = new SmartRouter<Routed<T>>({ routers: [new RegExpRouter(), new TrieRouter()] })
    for (const route of patterns) router.add('ALL', route.path, route)
    return router
  }

  function answers(route: Routed<T>, method: string): boolean {
    return route.methods.includes(method) || (method === 'HEAD' && route.methods.includes('GET'))
  }

  return {
    /** @throws TpError `bad_route` for a path that cannot be one or that is taken with one of the methods */
    add(route: Routed<T>): void {
      if (!route.path.startsWith('/'))
        throw new TpError('bad_route', `The path "${route.path}" must start with "/"`, {
          hint: `Write "/${route.path}".`,
        })
      const pattern = isPattern(route.path)
      const same =
        (pattern ? patterns.filter((each) => each.path === route.path) : fixed.get(encodeRest(route.path))) ?? []
      const taken = same.flatMap((each) => each.methods).find((method) => route.methods.includes(method))
      if (taken)
        throw new TpError('bad_route', `${taken} ${route.path} is registered twice`, {
          hint: 'Remove one of the two, or give them different methods.',
        })
      if (!pattern) {
        fixed.set(encodeRest(route.path), [...same, route])
        return
      }
      patterns.push(route)
      matcher = undefined
    },

    /** The route for a normalised path (see normalisePath), or undefined when the path is unknown. */
    match(method: string, path: string): Found<T> | undefined {
      const exact = fixed.get(path)
      if (exact) for (const route of exact) if (answers(route, method)) return { route, params: noParams }
      const allow: string[] = exact ? exact.flatMap((route) => route.methods) : []
      if (patterns.length > 0) {
        matcher ??= build()
        const [handlers, stash] = matcher.match('ALL', path)
        for (const [route, indexes] of handlers) {
          if (!answers(route, method)) {
            allow.push(...route.methods)
            continue
          }
          const params: Record<string, string> = {}
          for (const name in indexes) {
            const index = indexes[name]
            const value = typeof index === 'number' ? stash?.[index] : index
            if (value !== undefined) params[name] = value.includes('%') ? decodeURIComponent(value) : value
          }
          return { route, params }
        }
      }
      return allow.length > 0 ? { allow: [...new Set(allow)] } : undefined
    },
  }
}

/** A fixed path as `normalisePath` gives it: a literal "%" in a registered path stands for itself. */
function encodeRest(path: string): string {
  return path.replaceAll('%', '%25')
}

/**
 * Decodes the path of a request once, except `%2F` and `%25`: what a guard compares, what the router matches and what
 * the handler sees is then the same path, however the client spelled it.
 * @returns undefined when it is not valid UTF-8 or has control characters
 */
export function normalisePath(raw: string): string | undefined {
  let path = raw
  if (raw.includes('%')) {
    try {
      path = raw.replace(/(?:%(?!2f|25)[0-9a-f]{2})+/gi, decodeURIComponent)
    } catch {
      return undefined
    }
    if (/%(?!2f|25)/i.test(path)) return undefined
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they have no place in a path
  return /[\u0000-\u001f\u007f]/.test(path) ? undefined : path
}

/** A normalised path as it is written in a header: a path on this host, whatever it starts with. */
export function encodePath(path: string): string {
  const encoded = encodeURI(path).replaceAll('%25', '%').replace(/[?#]/g, encodeURIComponent)
  return `/${encoded.replace(/^\/+/, '')}`
}
