// What every benchmark shares: rounds in which ours and the peers take turns, medians, ratios within a round, tables.
import type { Bench } from './servers.ts'

/** Figures by name. */
export type Figures = Record<string, number>

/** What one system showed in one setting. */
export interface Sample {
  system: string
  /** What was varied, such as `128 runs`; empty when nothing was. */
  setting: string
  figures: Figures
}

/** A sample and when it was taken. */
export interface Taken extends Sample {
  benchmark: string
  /** From 0. */
  round: number
}

/** How a figure is shown and compared. */
export interface Figure {
  title: string
  /** Which is better; a figure without it is shown and not compared. */
  better?: 'more' | 'less'
}

/** Takes samples: one system, one setting, usually. */
export type Measure = () => Promise<Sample[]>

/** A benchmark: what it does, what it compares, and how. */
export interface Benchmark {
  /** One line. */
  says: string
  /** Of our systems, the one that peers are compared with. */
  ours: string
  figures: Record<string, Figure>
  /** Prepares what all rounds share and gives what one round does. @param only just this many runs at once, where there are runs */
  plan(bench: Bench, only?: number[]): Measure[] | Promise<Measure[]>
}

/** Whether a system is ours, by its name. */
export const isOurs = (system: string) => system.startsWith('tidebase')

/**
 * Takes a benchmark's samples, round after round; every second round goes backwards, so that no system always comes
 * after the same other.
 *
 * @param only see Benchmark.plan
 */
export async function takeRounds(bench: Bench, name: string, benchmark: Benchmark, only?: number[]): Promise<Taken[]> {
  const taken: Taken[] = []
  const measures = await benchmark.plan(bench, only)
  for (let round = 0; round < bench.options.rounds; round++) {
    for (const measure of round % 2 === 0 ? measures : measures.toReversed()) {
      for (const sample of await measure()) {
        const each = { benchmark: name, round, ...sample }
        console.log(JSON.stringify(each))
        taken.push(each)
      }
    }
  }
  return taken
}

/** The value in the middle; of an even number the mean of the two. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN
  return (lower + upper) / 2
}

/** A number for people: whole from 100 on, two digits after the point below 10. */
export const show = (value: number) =>
  value.toLocaleString('en', { maximumFractionDigits: Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2 })

/** A Markdown table. */
export function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`
  return [line(head), `|${head.map(() => '---').join('|')}|`, ...rows.map(line)].join('\n')
}

/** How one system did beside another in the rounds that both took part in. */
export interface Comparison {
  system: string
  setting: string
  figure: string
  /** Medians. */
  ours: number
  theirs: number
  /** By how much ours is better, round by round: 2 is twice as good, below 1 they win. */
  ratios: number[]
}

/** Figures of one system in one setting, by round. */
export function byRound(taken: readonly Taken[], system: string, setting: string, figure: string): Map<number, number> {
  return new Map(
    taken
      .filter((each) => each.system === system && each.setting === setting && figure in each.figures)
      .map((each) => [each.round, each.figures[figure] ?? Number.NaN]),
  )
}

/** Compares ours with every other system, figure by figure, setting by setting. */
export function compare(taken: readonly Taken[], { ours, figures }: Benchmark): Comparison[] {
  return distinct(taken.map(({ setting }) => setting)).flatMap((setting) =>
    distinct(taken.map(({ system }) => system))
      .filter((system) => !isOurs(system))
      .flatMap((system) =>
        Object.entries(figures).flatMap(([figure, { better }]) => {
          const mine = byRound(taken, ours, setting, figure)
          const theirs = byRound(taken, system, setting, figure)
          const rounds = [...mine.keys()].filter((round) => theirs.has(round))
          if (!better || rounds.length === 0) return []
          const ratios = rounds.map((round) => {
            const ratio = (mine.get(round) ?? Number.NaN) / (theirs.get(round) ?? Number.NaN)
            return better === 'more' ? ratio : 1 / ratio
          })
          return [
            { system, setting, figure, ours: median([...mine.values()]), theirs: median([...theirs.values()]), ratios },
          ]
        }),
      ),
  )
}

/** The medians as a Markdown table, how ours compares per round, and where a peer wins. */
export function report(taken: readonly Taken[], benchmark: Benchmark): string {
  const settings = distinct(taken.map(({ setting }) => setting))
  const columns = settings.flatMap((setting) =>
    Object.entries(benchmark.figures)
      .filter(([figure]) => taken.some((each) => each.setting === setting && figure in each.figures))
      .map(([figure, { title }]) => ({ setting, figure, title: setting ? `${setting}: ${title}` : title })),
  )
  const rows = distinct(taken.map(({ system }) => system)).map((system) => [
    system,
    ...columns.map(({ setting, figure }) => {
      const values = [...byRound(taken, system, setting, figure).values()]
      return values.length ? show(median(values)) : ''
    }),
  ])
  const comparisons = compare(taken, benchmark)
  const name = ({ setting, figure }: Comparison) =>
    [setting, benchmark.figures[figure]?.title].filter(Boolean).join(': ')
  const ratios = comparisons.map((each) => [
    name(each),
    each.system,
    `${show(median(each.ratios))} (${show(Math.min(...each.ratios))} to ${show(Math.max(...each.ratios))})`,
  ])
  const won = comparisons
    .filter(({ ratios }) => median(ratios) < 1)
    .map((each) => `- ${name(each)}: ${each.system} ${show(each.theirs)}, ${benchmark.ours} ${show(each.ours)}`)
  return [
    `${benchmark.says}\n`,
    table(['', ...columns.map(({ title }) => title)], rows),
    ...(comparisons.length
      ? [
          `\nHow many times as good ${benchmark.ours} was, median of the rounds (lowest to highest):\n`,
          table(['', 'beside', 'ratio'], ratios),
          won.length ? `\nWhere a peer wins:\n${won.join('\n')}` : '\nNo peer wins a figure of this table.',
        ]
      : []),
  ].join('\n')
}

const distinct = (values: readonly string[]) => [...new Set(values)]
