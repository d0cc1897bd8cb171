// The platform as its users meet it: pages through the gateway beside nginx in front of the same process, how soon a
// deployment is live, what idle pods weigh, how soon a killed one is back, and tp.db from inside a pod.
import { percentile, round } from './client.ts'
import { type LoadResult, load } from './load.ts'
import { hasNginx, startNginx } from './nginx.ts'
import { type OwnPlatform, type Pod, sleep, startOwnPlatform } from './own-platform.ts'

const main = (version: number) => `import tp from 'tidepool'
// Version ${version}
tp.page('/', '<h1>Hello</h1>')
tp.route('/db', { methods: ['POST'] }, async (req) => {
  const { op, count, concurrent } = req.body
  const work = {
    get: (n) => tp.db.get('k:' + (n % 100)),
    set: (n) => tp.db.set('k:' + (n % 100), { n, title: 'something to keep' }),
    increment: () => tp.db.increment('n'),
  }[op]
  const ms = []
  let next = 0
  const began = performance.now()
  await Promise.all(Array.from({ length: concurrent }, async () => {
    while (next < count) {
      const from = performance.now()
      await work(next++)
      ms.push(performance.now() - from)
    }
  }))
  const seconds = (performance.now() - began) / 1000
  ms.sort((a, b) => a - b)
  return { perSecond: count / seconds, p50ms: ms[Math.floor(count / 2)], n: await tp.db.get('n', 0) }
})
`

/** A way to the page: the pod itself, our gateway, nginx. */
type Way = 'direct' | 'gateway' | 'nginx, 1 worker' | 'nginx, a worker per core'

interface PageResult extends LoadResult {
  way: Way
  connections: number
}

interface DbResult {
  perSecond: number
  p50ms: number
  n: number
}

interface Sizes {
  seconds: number
  rounds: number
  deploys: number
  pods: number
  kills: number
  operations: number
}

const median = (values: number[]) => percentile([...values], 0.5)
const many = (value: number) => Math.round(value).toLocaleString('en')

/** Measures pages over all ways, in alternating rounds. */
async function pages(platform: OwnPlatform, pod: Pod, { seconds, rounds }: Sizes): Promise<PageResult[]> {
  const [running] = await platform.processes(pod)
  if (!running) throw new Error('the pod does not run')
  const host = '127.0.0.1'
  const nginx = hasNginx() ? [await startNginx(running.socket, 1), await startNginx(running.socket, 'auto')] : []
  const ways: [Way, Parameters<typeof load>[0]][] = [
    ['direct', { path: running.socket }],
    ['gateway', { port: platform.port, host }],
  ]
  const [one, all] = nginx
  if (one) ways.push(['nginx, 1 worker', { port: one.port, host }])
  if (all) ways.push(['nginx, a worker per core', { port: all.port, host }])
  const request = `GET / HTTP/1.1\r\nhost: ${pod.host}\r\naccept: text/html\r\nuser-agent: bench\r\n\r\n`
  const results: PageResult[] = []
  try {
    // Once unmeasured, so that all are as warm.
    for (const [, target] of ways) await load(target, request, { seconds })
    for (let n = 0; n < rounds; n++)
      for (const connections of [32, 1])
        for (const [way, target] of ways) {
          const result = { way, connections, ...(await load(target, request, { seconds, connections })) }
          console.log(JSON.stringify(result))
          results.push(result)
        }
  } finally {
    for (const each of nginx) await each.stop()
  }
  return results
}

/** Runs `operations` of tp.db in a pod, then increments in three processes of it at once. */
async function database(platform: OwnPlatform, pod: Pod, { operations }: Sizes) {
  const run = async (op: string, count: number, concurrent: number): Promise<DbResult> => {
    const { status, text } = await platform.ask(pod, '/db', { op, count, concurrent })
    if (status !== 200) throw new Error(`${op}: ${status} ${text}`)
    return JSON.parse(text)
  }
  const results: Record<string, DbResult> = {}
  for (const op of ['set', 'get']) {
    await run(op, operations / 4, 32)
    results[`${op}, one by one`] = await run(op, operations / 4, 1)
    results[`${op}, 32 at once`] = await run(op, operations, 32)
  }
  await platform.scale(pod, 3)
  const before = (await run('get', 1, 1)).n
  const began = performance.now()
  // As many requests as processes: each gets one.
  const answers = await Promise.all(Array.from({ length: 3 }, () => run('increment', operations, 32)))
  const seconds = (performance.now() - began) / 1000
  const after = (await run('get', 1, 1)).n
  if (after - before !== 3 * operations) throw new Error(`${3 * operations} increments made ${after - before}`)
  await platform.scale(pod, 1)
  results['increment of one key, 3 processes of 32'] = {
    perSecond: (3 * operations) / seconds,
    p50ms: median(answers.map(({ p50ms }) => p50ms)),
    n: after,
  }
  return results
}

/** Many pods side by side: whether all answer, what they weigh, and how soon one that was killed answers again. */
async function fleet(platform: OwnPlatform, { pods: count, kills }: Sizes) {
  const keys: string[] = []
  const pods: Pod[] = []
  for (let n = 0; n < count; n++) {
    // An agent may make ten pods in an hour.
    if (n % 10 === 0) keys.push(await platform.agent())
    pods.push(await platform.create(keys.at(-1) ?? '', `idle-${n}`))
  }
  const began = performance.now()
  await Promise.all(pods.map((pod) => platform.deploy(pod, { 'main.ts': main(1) })))
  const allLiveMs = performance.now() - began
  const answers = await Promise.all(pods.map((pod) => platform.ask(pod, '/')))
  const answering = answers.filter(({ status }) => status === 200).length
  const processes = (await Promise.all(pods.map((pod) => platform.processes(pod)))).flat()
  const cgroups = processes.flatMap(({ cgroupMb }) => cgroupMb ?? [])

  const backMs: number[] = []
  for (const pod of pods.slice(0, kills)) {
    const [running] = await platform.processes(pod)
    if (!running) throw new Error('a pod does not run')
    const killedAt = performance.now()
    process.kill(running.pid, 'SIGKILL')
    while ((await platform.ask(pod, '/')).status !== 200) await sleep(5)
    backMs.push(performance.now() - killedAt)
  }
  return {
    pods: count,
    answering,
    allLiveMs: Math.round(allLiveMs),
    rssMb: round(median(processes.map(({ rssMb }) => rssMb))),
    cgroupMb: cgroups.length > 0 ? round(median(cgroups)) : undefined,
    backMs: Math.round(median(backMs)),
  }
}

/** Runs the benchmark and prints it. @returns everything that was measured */
export async function benchPlatform({ quick, rounds }: { quick: boolean; rounds: number }) {
  const sizes: Sizes = quick
    ? { seconds: 0.3, rounds, deploys: 1, pods: 2, kills: 1, operations: 40 }
    : { seconds: 3, rounds, deploys: 5, pods: 20, kills: 5, operations: 4000 }
  const platform = await startOwnPlatform()
  try {
    const pod = await platform.create(await platform.agent(), 'bench')
    const deployMs: number[] = []
    for (let n = 0; n < sizes.deploys; n++) deployMs.push(await platform.deploy(pod, { 'main.ts': main(n) }))
    console.log(JSON.stringify({ deployMs }))
    const results = await pages(platform, pod, sizes)
    const db = await database(platform, pod, sizes)
    console.log(JSON.stringify(db))
    const idle = await fleet(platform, sizes)
    console.log(JSON.stringify(idle))
    const deployed = Math.round(median(deployMs))
    console.log(
      [
        '',
        pageTable(results),
        '',
        '| | measured | goal |',
        '|---|---|---|',
        `| deploy → live, no dependencies | ${many(deployed)} ms | < 3,000 ms |`,
        `| ${idle.pods} pods deployed at once, all live after | ${many(idle.allLiveMs)} ms | |`,
        `| of these answer | ${idle.answering} | ${idle.pods} |`,
        `| an idle pod: resident memory of its process (its control group) | ${idle.rssMb} MB (${idle.cgroupMb === undefined ? 'none here' : `${idle.cgroupMb} MB`}) | < 90 MB |`,
        `| kill -9 of a pod's only process → it answers | ${many(idle.backMs)} ms | |`,
        '',
        '| tp.db in a pod on the platform | /s | p50, ms |',
        '|---|---|---|',
        ...Object.entries(db).map(
          ([what, { perSecond, p50ms }]) => `| ${what} | ${many(perSecond)} | ${round(p50ms)} |`,
        ),
        '',
        `Pods: ${platform.isolation}.`,
      ].join('\n'),
    )
    return { isolation: platform.isolation, deployMs, pages: results, db, idle }
  } finally {
    await platform.stop()
  }
}

function pageTable(results: PageResult[]): string {
  const all = (way: Way, connections: number, key: keyof LoadResult) =>
    results.filter((each) => each.way === way && each.connections === connections).map((each) => each[key])
  const of = (way: Way, connections: number, key: keyof LoadResult) => median(all(way, connections, key))
  const row = (way: Way) => {
    if (all(way, 32, 'perSecond').length === 0) return `| ${way} | nginx is not installed | | | |`
    // Within a round the machine is most alike.
    const rates = all(way, 32, 'perSecond')
    const ratio = median(all('gateway', 32, 'perSecond').map((rate, n) => rate / (rates[n] ?? Number.NaN)))
    const direct = all('direct', 1, 'p50ms')
    const added = median(all(way, 1, 'p50ms').map((ms, n) => ms - (direct[n] ?? Number.NaN)))
    return `| ${way} | ${many(of(way, 32, 'perSecond'))} | ${of(way, 32, 'p50ms')} / ${of(way, 32, 'p99ms')} | ${round(ratio)} | ${of(way, 1, 'p50ms')} (+${round(added)}) |`
  }
  const ways: Way[] = ['direct', 'gateway', 'nginx, 1 worker', 'nginx, a worker per core']
  return [
    '| a small page | answers/s, 32 connections | p50 / p99, ms | gateway ÷ this (goal: nginx ≥ 0.40) | p50 of 1 connection, ms (added; goal < 1) |',
    '|---|---|---|---|---|',
    ...ways.map(row),
  ].join('\n')
}
