// Finds the route of a path. Routes are data with few shapes, so a table by number of segments is all it takes.
import type { Route } from '@tidebase/wire'
import { ApiError } from './errors.ts'

/** A route that was found. */
export interface Match<Name extends string> {
  name: Name
  route: Route
  params: Record<string, string>
}

/**
 * From method and path (still encoded, without query) to the match, or to the methods that the path takes when it does
 * not take this one, or to null when there is no such path.
 */
export type Router<Name extends string> = (method: string, path: string) => Match<Name> | { allowed: string[] } | null

interface Shape<Name extends string> {
  /** A literal segment as text, a parameter as its place in the path. */
  literals: (string | null)[]
  methods: Map<string, { name: Name; route: Route; params: (string | null)[] }>
}

/** Builds the table. */
export function createRouter<Name extends string>(routes: Record<Name, Route>): Router<Name> {
  const byLength = new Map<number, Shape<Name>[]>()
  for (const [name, route] of Object.entries(routes) as [Name, Route][]) {
    const segments = route.path.slice(1).split('/')
    const literals = segments.map((segment) => (segment.startsWith(':') ? null : segment))
    const shapes = byLength.get(segments.length) ?? []
    byLength.set(segments.length, shapes)
    let shape = shapes.find((each) => each.literals.join('/') === literals.join('/'))
    if (!shape) {
      shape = { literals, methods: new Map() }
      shapes.push(shape)
    }
    const params = segments.map((segment) => (segment.startsWith(':') ? segment.slice(1) : null))
    shape.methods.set(route.method, { name, route, params })
  }
  // A literal beats a parameter, from the left.
  const rank = ({ literals }: Shape<Name>) => literals.map((literal) => (literal === null ? '1' : '0')).join('')
  for (const shapes of byLength.values()) shapes.sort((a, b) => (rank(a) < rank(b) ? -1 : 1))

  return (method, path) => {
    const segments = path.slice(1).split('/')
    const fits = (byLength.get(segments.length) ?? []).filter(({ literals }) =>
      literals.every((literal, n) => (literal === null ? segments[n] !== '' : literal === segments[n])),
    )
    for (const { methods } of fits) {
      const found = methods.get(method)
      if (found) return { name: found.name, route: found.route, params: decode(found.params, segments) }
    }
    return fits.length > 0 ? { allowed: fits.flatMap(({ methods }) => [...methods.keys()]) } : null
  }
}

function decode(names: (string | null)[], segments: string[]): Record<string, string> {
  const params: Record<string, string> = {}
  names.forEach((name, n) => {
    const segment = segments[n]
    if (name === null || segment === undefined) return
    let value = segment
    try {
      if (segment.includes('%')) value = decodeURIComponent(segment)
    } catch {
      throw badName(name, 'is not percent-encoded UTF-8')
    }
    checkParam(name, value)
    params[name] = value
  })
  return params
}

function checkParam(name: string, value: string): void {
  if (value.length > 300) throw badName(name, 'is longer than 300 characters')
  if (value.includes('\0')) throw badName(name, 'contains NUL')
}

/**
 * The parameters of a route's path from values that were never part of an address.
 *
 * @throws ApiError `invalid_query`
 */
export function namedParams(route: Route, given: Record<string, string>): Record<string, string> {
  const params: Record<string, string> = {}
  for (const name of paramsOf(route.path)) {
    const value = Object.hasOwn(given, name) ? given[name] : undefined
    if (value === undefined || value === '') throw badName(name, 'is missing')
    if (!value.isWellFormed()) throw badName(name, 'contains half of a surrogate pair')
    checkParam(name, value)
    params[name] = value
  }
  return params
}

const known = new Map<string, string[]>()

/** The names of a path's parameters. */
function paramsOf(path: string): string[] {
  let names = known.get(path)
  if (!names) {
    names = [...path.matchAll(/:(\w+)/g)].map(([, name = '']) => name)
    known.set(path, names)
  }
  return names
}

function badName(name: string, message: string): ApiError {
  return new ApiError('invalid_query', `The path parameter ${name} ${message}.`, { issues: [{ path: name, message }] })
}
