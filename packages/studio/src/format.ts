// How times, amounts and ids are written.

const seconds = (ms: number, digits: number) => `${(ms / 1_000).toFixed(digits)} s`

/** A length of time, such as `340 ms`, `12.4 s`, `3 min 20 s`, `2 d 4 h`. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`
  if (ms < 10_000) return seconds(ms, 2)
  if (ms < 60_000) return seconds(ms, 1)
  const units: [string, number][] = [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['min', 60_000],
    ['s', 1_000],
  ]
  const first = units.findIndex(([, size]) => ms >= size)
  return units
    .slice(first, first + 2)
    .map(([unit, size], n) => [
      n === 0 ? Math.floor(ms / size) : Math.floor((ms % (units[first]?.[1] ?? 1)) / size),
      unit,
    ])
    .filter(([amount]) => amount !== 0)
    .map((part) => part.join(' '))
    .join(' ')
}

/** How long ago, or in how long. */
export function relative(time: string, now: number): string {
  const ms = now - Date.parse(time)
  if (Math.abs(ms) < 1_000) return 'now'
  const text = duration(Math.floor(Math.abs(ms) / 1_000) * 1_000)
    .replace(/\.\d+ s$/, ' s')
    .split(' ')
    .slice(0, 2)
    .join(' ')
  return ms > 0 ? `${text} ago` : `in ${text}`
}

const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' })
const clock = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  fractionalSecondDigits: 3,
})

/** Date and time in the reader's zone. */
export const exact = (time: string) => dateTime.format(new Date(time))

/** The time of day with milliseconds. */
export const ofDay = (time: string) => clock.format(new Date(time))

const whole = new Intl.NumberFormat('en')
/** A number with separators. */
export const number = (value: number) => whole.format(value)

/** US dollars: cents, or more digits where there are only those. */
export function dollars(value: number): string {
  const digits = value === 0 || Math.abs(value) >= 1 ? 2 : Math.abs(value) >= 0.01 ? 3 : 6
  return `$${value.toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: digits })}`
}

/** The telling end of an id: its beginning is the time. */
export const shortId = (id: string) => `…${id.slice(-8)}`

/** `1 run`, `2 runs`. */
export const plural = (count: number, noun: string) => `${number(count)} ${noun}${count === 1 ? '' : 's'}`
