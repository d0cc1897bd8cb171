// Calls that are made together leave together: those of one turn of the event loop, or those that were made while two
// requests were under way, go out as one POST /batch, and come back each with its own answer. It is a way to send like any other; repeating, time limits and errors are the
// transport's, per call.
//
//   one call           ─▶ its own request, as if this were not here
//   several            ─▶ /batch ─▶ 200: each has its answer; a call the server wants alone is sent alone
//                              ├──▶ 403, 404, 405: a server, or a proxy, without batches: each alone, now and for a while
//                              ├──▶ other 4xx: something about one of them (or the key): each alone
//                              └──▶ 5xx, a lost connection: each is told, and is repeated as it would be alone
//
// Invariants: on an idle client a call waits for nothing but the end of the turn, and never for long behind slow ones;
// one that was given up takes no other with it, and the request ends with the last of its calls.
import type { Answer, Outgoing, Send, Sending } from './send.ts'
import { property } from './thrown.ts'

/** Longest body of a call that travels with others, characters: large ones would keep them waiting. */
const smallBody = 32_000
/** Most of one request: far below what servers allow (500 calls, 4 MiB). */
const maxCalls = 200
const maxLength = 512_000
/** Requests under way before further calls wait for one to end and then leave together; by measurement (docs/notes/0004). */
const atOnce = 2
/** When a request that is still under way keeps no call waiting any more, ms. */
const slowMs = 250
/** For how long a server that has no batches is not asked again, ms: it may be updated under a worker that goes on. */
const refusedMs = 600_000

/** The server will do it when asked again. */
const transient: ReadonlySet<number> = new Set([408, 425, 429])

interface Member {
  request: Outgoing
  resolve(answer: Answer | PromiseLike<Answer>): void
  reject(error: unknown): void
  gone: boolean
  /** Breaks off what carries it, once it left. */
  cancel: () => void
}

/**
 * A way to send that puts calls together.
 *
 * @param send how requests leave
 * @param url of the server
 * @param headers that every call carries; calls with others must not come here
 */
export function coalescing(send: Send, url: string, headers: Record<string, string>): Send {
  let pending: Member[] = []
  let refusedUntil = 0
  let longest = maxLength
  let underWay = 0
  let scheduled = false

  const alone = (member: Member, over = () => {}) => {
    if (member.gone) return over()
    const sending = send(member.request)
    member.cancel = sending.cancel
    member.resolve(sending.answer)
    sending.answer.then(over, over)
  }

  const schedule = () => {
    if (scheduled || pending.length === 0 || underWay >= atOnce) return
    scheduled = true
    afterThisTurn(flush)
  }

  const flush = () => {
    scheduled = false
    pending = pending.filter(({ gone }) => !gone)
    if (performance.now() < refusedUntil) {
      for (const member of pending.splice(0)) alone(member)
      return
    }
    while (pending.length > 0 && underWay < atOnce) {
      const group = pending.splice(0, fitting(pending, longest))
      const over = occupy()
      const [first] = group
      if (first && group.length === 1) alone(first, over)
      else void together(group).finally(over)
    }
  }

  /** Counts a request as under way until the returned function is called, or it turns out to be slow. */
  const occupy = () => {
    underWay++
    let counted = true
    const over = () => {
      clearTimeout(timer)
      if (!counted) return
      counted = false
      underWay--
      schedule()
    }
    const timer = setTimeout(over, slowMs)
    return over
  }

  const together = async (members: Member[]) => {
    const sending = send({
      url: `${url}/batch`,
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body: `{"calls":[${members.map(({ request }) => asCall(request, url)).join(',')}]}`,
    })
    let left = members.length
    for (const member of members) {
      member.cancel = () => {
        if (--left === 0) sending.cancel()
      }
    }
    try {
      const answer = await sending.answer
      const { status } = answer
      const reply = await answer.json()
      if (status === 403 || status === 404 || status === 405) refusedUntil = performance.now() + refusedMs
      if (status === 413) longest = Math.max(smallBody, longest / 2)
      const refused = status >= 400 && status < 500 && !transient.has(status)
      const answers = status === 200 ? property(reply?.value, 'answers') : undefined
      const fits = Array.isArray(answers) && answers.length === members.length
      for (const [n, member] of members.entries()) {
        const mine: unknown = fits ? answers[n] : undefined
        if (refused || property(property(mine, 'body'), 'code') === 'not_in_batch') alone(member)
        else if (mine !== undefined) member.resolve(ownAnswer(mine))
        // An outage, a redirection, a proxy's page: it means the same to all of them.
        else member.resolve({ ...answer, json: async () => (status === 200 ? undefined : reply) })
      }
    } catch (error) {
      for (const { reject } of members) reject(error)
    }
  }

  return (request): Sending => {
    if ((request.body?.length ?? 0) > smallBody) return send(request)
    let member: Member | undefined
    const answer = new Promise<Answer>((resolve, reject) => {
      member = { request, resolve, reject, gone: false, cancel: () => {} }
      pending.push(member)
      schedule()
    })
    return {
      answer,
      cancel() {
        if (!member || member.gone) return
        member.gone = true
        member.reject(new Error('the call was given up'))
        member.cancel()
      },
    }
  }
}

/** Runs once everything that is ready now has had its turn. */
const afterThisTurn: (work: () => void) => void =
  typeof setImmediate === 'function' ? (work) => void setImmediate(work) : queueMicrotask

/** How many of the calls fit into one request; at least one. */
function fitting(members: Member[], longest: number): number {
  let room = longest
  const end = members.findIndex(({ request }, n) => {
    room -= request.body?.length ?? 0
    return n > 0 && (room < 0 || n >= maxCalls)
  })
  return end < 0 ? members.length : end
}

function asCall({ url, method, body }: Outgoing, server: string): string {
  const path = JSON.stringify(url.slice(server.length))
  return `{"method":"${method}","path":${path}${body === undefined ? '' : `,"body":${body}`}}`
}

function ownAnswer(answer: unknown): Answer {
  const headers = property(answer, 'headers')
  return {
    status: Number(property(answer, 'status')),
    header(name) {
      const value = property(headers, name)
      return typeof value === 'string' ? value : null
    },
    json: async () => ({ value: property(answer, 'body') }),
    async *chunks() {},
  }
}
