// The goals of docs and design, each with the benchmark that tells whether it is reached.
import { detailBenchmark } from './detail.ts'
import { liveBenchmark } from './live.ts'
import { oldJobsBenchmark, oldStepsBenchmark } from './old.ts'
import { queueBenchmark } from './queue.ts'
import { resumeBenchmark } from './resume.ts'
import { stepsBenchmark } from './steps.ts'
import { type Benchmark, byRound, isOurs, median, show, type Taken, table } from './suite.ts'

/** Benchmarks that `goals` runs, in this order; those that fill the disk come last. */
export const goalBenchmarks: Record<string, { benchmark: Benchmark; only?: number[] }> = {
  steps: { benchmark: stepsBenchmark, only: [1, 128] },
  queue: { benchmark: queueBenchmark },
  resume: { benchmark: resumeBenchmark },
  live: { benchmark: liveBenchmark },
  detail: { benchmark: detailBenchmark },
  'old-jobs': { benchmark: oldJobsBenchmark },
  'old-steps': { benchmark: oldStepsBenchmark },
}

interface Goal {
  row: string
  benchmark: string
  /** As the sample says it. */
  setting?: string
  system: string
  figure: string
  /** The bound of our median. */
  atMost?: number
  atLeast?: number
  /** How many times as good as peers whose names begin so, at least, in the median of the rounds. */
  times?: Record<string, number>
}

const goals: Goal[] = [
  {
    row: 'a step, one run at a time, SDK, p50, ms',
    benchmark: 'steps',
    setting: '1 run',
    system: 'tidebase, sdk',
    figure: 'p50ms',
    atMost: 0.6,
    times: { DBOS: 1, Restate: 1 },
  },
  {
    row: 'steps/s, 128 runs in one worker process, SDK',
    benchmark: 'steps',
    setting: '128 runs',
    system: 'tidebase, sdk',
    figure: 'stepsPerSecond',
    atLeast: 15_000,
    times: { Restate: 2.5, DBOS: 7 },
  },
  {
    row: 'steps/s, 128 runs, plain HTTP',
    benchmark: 'steps',
    setting: '128 runs',
    system: 'tidebase, record',
    figure: 'stepsPerSecond',
    atLeast: 6_000,
  },
  ...(
    [
      ['enqueue/s, one by one, 64 in flight, by HTTP', 'tidebase, http', 'enqueuePerSecond', { atLeast: 10_000 }],
      ['enqueue/s, one by one, 64 in flight, SDK', 'tidebase, sdk', 'enqueuePerSecond', { atLeast: 10_000 }],
      ['enqueue/s, batches of 500', 'tidebase, http', 'enqueueBatchPerSecond', { atLeast: 50_000 }],
      [
        'claim + complete /s, by HTTP',
        'tidebase, http',
        'claimCompletePerSecond',
        { atLeast: 20_000, times: { 'pg-boss': 1 } },
      ],
      [
        'claim + complete /s, an SDK worker',
        'tidebase, sdk',
        'claimCompletePerSecond',
        { atLeast: 20_000, times: { 'pg-boss': 1 } },
      ],
      ['enqueue → idle SDK worker has it, p50, ms', 'tidebase, sdk', 'pickUpP50ms', { atMost: 5 }],
      ['enqueue → idle SDK worker has it, p99, ms', 'tidebase, sdk', 'pickUpP99ms', { atMost: 25 }],
    ] as const
  ).map(([row, system, figure, bounds]) => ({ row, benchmark: 'queue', system, figure, ...bounds })),
  {
    row: 'resuming a run of 1,000 steps, p50, ms',
    benchmark: 'resume',
    system: 'tidebase, sdk',
    figure: 'p50ms',
    atMost: 25,
  },
  {
    row: 'write → SSE client, two servers, p99, ms',
    benchmark: 'live',
    system: 'tidebase',
    figure: 'p99ms',
    atMost: 50,
  },
  {
    row: 'steps/s beside 10 million old steps ÷ empty',
    benchmark: 'old-steps',
    system: 'tidebase',
    figure: 'share',
    atLeast: 0.9,
  },
  {
    row: 'claims/s beside 1 million finished, 100,000 delayed jobs ÷ empty',
    benchmark: 'old-jobs',
    system: 'tidebase',
    figure: 'share',
    atLeast: 0.9,
  },
  {
    row: 'GET /runs/:id, 5,000 events, first page, p50, ms',
    benchmark: 'detail',
    system: 'tidebase, first page',
    figure: 'p50ms',
    atMost: 15,
  },
]

/** Every goal, ours, the best peer of the same run, the ratio, and whether it was reached; a Markdown table. */
export function goalsTable(taken: readonly Taken[]): string {
  return table(
    ['', 'goal', 'ours', 'best peer', 'ours ÷ peer, per round', 'reached'],
    goals.map((goal) => row(goal, taken)),
  )
}

function row(goal: Goal, all: readonly Taken[]): string[] {
  const { system, figure, atMost, atLeast, times = {} } = goal
  const taken = all.filter(
    ({ benchmark, setting }) => benchmark === goal.benchmark && setting === (goal.setting ?? setting),
  )
  const figuresOf = (who: string) => new Map(taken.flatMap(({ setting }) => [...byRound(taken, who, setting, figure)]))
  const mine = figuresOf(system)
  const ours = median([...mine.values()])
  const peers = [...new Set(taken.map((each) => each.system))]
    .filter((name) => !isOurs(name))
    .map((name) => ({ name, values: figuresOf(name) }))
    .filter(({ values }) => values.size > 0)
    .map(({ name, values }) => {
      const ratios = [...mine].flatMap(([round, value]) => value / (values.get(round) ?? Number.NaN) || [])
      return { name, value: median([...values.values()]), ratio: median(ratios) }
    })
    .sort((a, b) => (atMost === undefined ? b.value - a.value : a.value - b.value))
  const [best] = peers
  const missed = Object.entries(times).filter(([name, factor]) => {
    const ratio = peers.find((peer) => peer.name.startsWith(name))?.ratio ?? Number.NaN
    return !(atMost === undefined ? ratio >= factor : ratio <= 1 / factor)
  })
  const absolute = atMost === undefined ? ours >= (atLeast ?? Number.NaN) : ours <= atMost
  const unknown = missed.filter(([name]) => !peers.some((peer) => peer.name.startsWith(name)))
  const beaten = missed.filter((each) => !unknown.includes(each))
  const wanted = Object.entries(times).map(([name, factor]) =>
    factor === 1 ? `better than ${name}` : `${factor} × ${name}`,
  )
  const verdict = [
    ...(absolute ? [] : ['figure missed']),
    ...beaten.map(([name, factor]) => (factor === 1 ? `**${name} wins**` : `not ${factor} × ${name}`)),
    ...unknown.map(([name]) => `${name} did not run`),
  ]
  return [
    goal.row,
    [atMost === undefined ? `≥ ${show(atLeast ?? 0)}` : `≤ ${show(atMost)}`, ...wanted].join(', '),
    show(ours),
    best ? `${best.name}: ${show(best.value)}` : '',
    peers.map(({ name, ratio }) => `${show(ratio)} (${name.split(' ')[0]})`).join(', '),
    verdict.length ? `no: ${verdict.join(', ')}` : 'yes',
  ]
}
