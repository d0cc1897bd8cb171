// Calls that are made together leave together: those of one turn of the event loop, or those that were made while two
// requests were under way, go out as one POST /batch, and come back each with its own answer. Repeating, patience and
// errors are the transport's, per call.
//
//   one call           ─▶ its own request, as if this were not here
//   several            ─▶ /batch ─▶ 200: each has its answer; a call the server wants alone is sent alone
//                              ├──▶ 403, 404, 405: a server, or a proxy, without batches: each alone, now and for a while
//                              ├──▶ other 4xx: something about one of them (or the key): each alone
//                              └──▶ 5xx, a lost connection: each is told, and is repeated as it would be alone
//
// Invariants: on an idle client a call waits for nothing but the end of the turn, and never for long behind slow ones;
// one that was given up takes no other with it, and the request ends with the last of its calls.
import type { Send, Sending } from './send.ts'
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

/** A call as it stands in a batch. */
export interface BatchCall {
  /** The operation's name in the contract. */
  readonly name: string
  readonly params: unknown
  /** JSON. */
  readonly body: string | undefined
}

/** What a call was answered with. */
export interface Answered {
  status: number
  /** `Retry-After`, where there is one. */
  retryAfter: string | null
  /** Undefined when the answer was not JSON. */
  json: { value: unknown } | undefined
}

/** The call must be sent alone; `over` is to be called when that is done. */
export interface Alone {
  over(): void
}

interface Carrier {
  sending: Sending
  /** How many of its calls were not given up. */
  left: number
}

/** A call that stands in a queue or in a request. */
export interface Joined {
  outcome: Promise<Answered | Alone>
  /** Gives it up: the outcome is that error. */
  cancel(error: Error): void
}

class Member implements Joined {
  readonly call: BatchCall
  readonly outcome: Promise<Answered | Alone>
  gone = false
  /** What carries it, once it left. */
  carrier: Carrier | undefined
  settle: (got: Answered | Alone) => void = nothing
  fail: (error: unknown) => void = nothing

  constructor(call: BatchCall) {
    this.call = call
    this.outcome = new Promise((resolve, reject) => {
      this.settle = resolve
      this.fail = reject
    })
  }

  cancel(error: Error): void {
    if (this.gone) return
    this.gone = true
    this.fail(error)
    if (this.carrier && --this.carrier.left === 0) this.carrier.sending.cancel()
  }
}

const nothing = () => {}

/** Puts the calls of one client together. */
export class Batches {
  readonly #send: Send
  readonly #url: string
  readonly #headers: Record<string, string>
  readonly #timeoutMs: number
  #pending: Member[] = []
  #refusedUntil = 0
  #longest = maxLength
  #underWay = 0
  #scheduled = false

  /**
   * @param send how requests leave
   * @param url of the server
   * @param headers that every call carries; calls with others must not come here
   * @param timeoutMs how long a request may take
   */
  constructor(send: Send, url: string, headers: Record<string, string>, timeoutMs: number) {
    this.#send = send
    this.#url = url
    this.#headers = { ...headers, 'content-type': 'application/json' }
    this.#timeoutMs = timeoutMs
  }

  /** Whether a body may travel with others. */
  takes(body: string | undefined): boolean {
    return body === undefined || body.length <= smallBody
  }

  /** Sends a call with the next request. Its outcome rejects when the connection fails or the time is over. */
  join(call: BatchCall): Joined {
    const member = new Member(call)
    this.#pending.push(member)
    this.#schedule()
    return member
  }

  #schedule(): void {
    if (this.#scheduled || this.#pending.length === 0 || this.#underWay >= atOnce) return
    this.#scheduled = true
    const flush = () => this.#flush()
    if (this.#underWay === 0) afterWhatIsReady(flush)
    else afterThisTurn(flush)
  }

  #flush(): void {
    this.#scheduled = false
    this.#pending = this.#pending.filter(({ gone }) => !gone)
    if (performance.now() < this.#refusedUntil) {
      for (const { settle } of this.#pending.splice(0)) settle({ over: nothing })
      return
    }
    while (this.#pending.length > 0 && this.#underWay < atOnce) {
      const group = this.#pending.splice(0, fitting(this.#pending, this.#longest))
      const over = this.#occupy()
      const [first] = group
      if (first && group.length === 1) first.settle({ over })
      else void this.#together(group).finally(over)
    }
  }

  /** Counts a request as under way until the returned function is called, or it turns out to be slow. */
  #occupy(): () => void {
    this.#underWay++
    let counted = true
    const over = () => {
      clearTimeout(timer)
      if (!counted) return
      counted = false
      this.#underWay--
      this.#schedule()
    }
    const timer = setTimeout(over, slowMs)
    return over
  }

  async #together(members: Member[]): Promise<void> {
    const sending = this.#send({
      url: `${this.#url}/batch`,
      method: 'POST',
      headers: this.#headers,
      body: `{"calls":[${members.map(({ call }) => asJson(call)).join(',')}]}`,
    })
    const carrier = { sending, left: members.length }
    for (const member of members) member.carrier = carrier
    let late = false
    const timer = setTimeout(() => {
      late = true
      sending.cancel()
    }, this.#timeoutMs)
    try {
      const answer = await sending.answer
      const { status } = answer
      const json = await answer.json()
      if (status === 403 || status === 404 || status === 405) this.#refusedUntil = performance.now() + refusedMs
      if (status === 413) this.#longest = Math.max(smallBody, this.#longest / 2)
      const refused = status >= 400 && status < 500 && !transient.has(status)
      const answers = status === 200 ? property(json?.value, 'answers') : undefined
      const fits = Array.isArray(answers) && answers.length === members.length
      for (let n = 0; n < members.length; n++) {
        const mine: unknown = fits ? answers[n] : undefined
        const got = mine === undefined ? undefined : ownAnswer(mine)
        const member = members[n]
        if (refused || (got && got.status >= 400 && property(got.json?.value, 'code') === 'not_in_batch'))
          member?.settle({ over: nothing })
        // An outage, a redirection, a proxy's page: it means the same to all of them.
        else
          member?.settle(
            got ?? { status, retryAfter: answer.header('retry-after'), json: status === 200 ? undefined : json },
          )
      }
    } catch (error) {
      const why = late ? new Error(`no answer within ${this.#timeoutMs} ms`, { cause: error }) : error
      for (const { fail } of members) fail(why)
    } finally {
      clearTimeout(timer)
    }
  }
}

/** Runs once everything that is ready now has had its turn, also what comes in from other connections. */
const afterThisTurn: (work: () => void) => void =
  typeof setImmediate === 'function' ? (work) => void setImmediate(work) : queueMicrotask
/** Runs once what this event has made ready has had its turn: with nothing under way there is nothing else to expect. */
const afterWhatIsReady: (work: () => void) => void =
  typeof process === 'object' && typeof process.nextTick === 'function'
    ? (work) => process.nextTick(work)
    : afterThisTurn

/** How many of the calls fit into one request; at least one. */
function fitting(members: Member[], longest: number): number {
  let room = longest
  const end = members.findIndex(({ call }, n) => {
    room -= call.body?.length ?? 0
    return n > 0 && (room < 0 || n >= maxCalls)
  })
  return end < 0 ? members.length : end
}

function asJson({ name, params, body }: BatchCall): string {
  const called = `{"route":"${name}","params":${JSON.stringify(params ?? {})}`
  return body === undefined ? `${called}}` : `${called},"body":${body}}`
}

function ownAnswer(answer: unknown): Answered {
  const headers = property(answer, 'headers')
  const retryAfter = headers === undefined ? undefined : property(headers, 'retry-after')
  return {
    status: Number(property(answer, 'status')),
    retryAfter: typeof retryAfter === 'string' ? retryAfter : null,
    json: { value: property(answer, 'body') },
  }
}
