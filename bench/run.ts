// Runs a benchmark, prints Markdown tables, keeps everything as JSON in bench/results. See bench/README.md.
import { execFile } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { cpus, loadavg } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { detailBenchmark } from './detail.ts'
import { goalBenchmarks, goalsTable } from './goals.ts'
import { liveBenchmark } from './live.ts'
import { oldJobsBenchmark, oldStepsBenchmark } from './old.ts'
import { benchPlatform } from './platform.ts'
import { benchPod } from './pod.ts'
import { queueBenchmark } from './queue.ts'
import { resumeBenchmark } from './resume.ts'
import { installPeers, withBench } from './servers.ts'
import { soakBenchmark } from './soak.ts'
import { stepsBenchmark } from './steps.ts'
import { type Benchmark, report, type Taken, takeRounds } from './suite.ts'
import { waitsBenchmark } from './waits.ts'

const benchmarks: Record<string, Benchmark> = {
  steps: stepsBenchmark,
  queue: queueBenchmark,
  waits: waitsBenchmark,
  resume: resumeBenchmark,
  live: liveBenchmark,
  detail: detailBenchmark,
  'old-steps': oldStepsBenchmark,
  'old-jobs': oldJobsBenchmark,
  soak: soakBenchmark,
}

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    'no-peers': { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string' },
    scale: { type: 'string' },
    minutes: { type: 'string' },
  },
})
const [name = 'steps'] = positionals
const { quick } = values
const peers = !values['no-peers']
/** A number given as an option. */
const number = (option: 'rounds' | 'only' | 'scale' | 'minutes', otherwise: number) => {
  const value = Number(values[option] ?? otherwise)
  if (!(value > 0)) throw new Error(`--${option} must be a number above 0`)
  return value
}
const rounds = Math.ceil(number('rounds', quick || name === 'soak' ? 1 : 3))
const options = {
  quick,
  peers,
  rounds,
  scale: number('scale', quick ? 0.001 : 1),
  minutes: number('minutes', quick ? 0.1 : 10),
}
/** Only this many runs at once. */
const only = values.only === undefined ? undefined : [number('only', 1)]
const begun = { at: new Date().toISOString(), load: loadavg().map((each) => Math.round(each * 100) / 100) }

const own = benchmarks[name]
if (name === 'pod' || name === 'platform') {
  if (peers && name === 'pod') await installPeers()
  await promisify(execFile)(process.execPath, [here('../scripts/build.mjs')])
  if (name === 'pod') await benchPod({ quick, peers, rounds })
  else await keep(await benchPlatform({ quick, rounds }))
} else if (own || name === 'goals') {
  if (peers) await installPeers()
  const wanted = own ? { [name]: { benchmark: own, only } } : goalBenchmarks
  await withBench(options, async (bench) => {
    const taken: Taken[] = []
    for (const [each, { benchmark, only: runs }] of Object.entries(wanted)) {
      const fresh = await takeRounds(bench, each, benchmark, only ?? runs)
      taken.push(...fresh)
      console.log(`\n## ${each}\n\n${report(fresh, benchmark)}`)
    }
    if (!own) console.log(`\n## goals\n\n${goalsTable(taken)}`)
    for (const reason of bench.skipped) console.log(`\nNot measured: ${reason}.`)
    console.log(
      `\nMachine: ${cpus().length} cores, load ${begun.load[0]} before and ${loadavg()[0]?.toFixed(2)} after, Node ${process.version}.`,
    )
    if (quick) console.log('A quick run: its loads are too small for its figures to mean anything.')
    await keep(taken)
  })
} else {
  console.error(`There is no benchmark ${name}: goals, ${Object.keys(benchmarks).join(', ')}, pod, platform.`)
  process.exitCode = 1
}

async function keep(results: unknown): Promise<void> {
  await mkdir(here('results'), { recursive: true })
  const file = here(`results/${name}-${begun.at.replace(/[:.]/g, '-')}.json`)
  const machine = { cores: cpus().length, node: process.version, loadBefore: begun.load, loadAfter: loadavg() }
  await writeFile(file, `${JSON.stringify({ name, at: begun.at, ...machine, options, results }, null, 2)}\n`)
}
