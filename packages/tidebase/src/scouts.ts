// Claims that wait for the same queues look for each other. Wake-ups and due times bring each of them its jobs; what is
// left is the notification that was lost, and to find that out one look for all is enough: hundreds of idle workers
// cost a statement every few seconds, however many they are. Who finds something that way tells the others. Who comes while
// others wait does not look either, if one of them has just seen that there is nothing.
import { slowPollMs } from './wait.ts'

/** One of those who wait. */
export interface Scout {
  /** Whether a look would find nothing: one of the others has just looked, and nothing has happened since. */
  quiet(): boolean
  /**
   * Before a look.
   *
   * @returns to be called when it has found that there is nothing, and that nothing will be unless something happens
   */
  looks(): () => void
  /** Something has happened to what they wait for. */
  stirred(): void
  /** Tells the others to look, if this one has found something that nobody was told of. */
  found(): void
  /** It waits no longer. */
  leave(): void
}

interface Group {
  members: Set<Member>
  /** How often something has happened. */
  stirs: number
  /** Until when it is quiet, by `performance.now()`. */
  quietUntil: number
}

interface Member {
  wake(): void
  /** Has looked for the others. */
  sent: boolean
}

/** All who wait at one server, by what they wait for. */
export class Scouts {
  readonly #groups = new Map<string, Group>()
  #timer: NodeJS.Timeout | undefined

  /**
   * Joins those who wait for the same.
   *
   * @param wake makes it look
   */
  join(name: string, wake: () => void): Scout {
    const group = this.#groups.get(name) ?? { members: new Set(), stirs: 0, quietUntil: 0 }
    const { members } = group
    this.#groups.set(name, group)
    const mine: Member = { wake, sent: false }
    members.add(mine)
    this.#timer ??= setInterval(() => this.#send(), slowPollMs).unref()
    return {
      quiet: () => performance.now() < group.quietUntil,
      looks: () => {
        const { stirs } = group
        return () => {
          // As long as it may take until the next of them looks.
          if (group.stirs === stirs) group.quietUntil = performance.now() + slowPollMs
        }
      },
      stirred: () => {
        group.stirs++
        group.quietUntil = 0
      },
      found: () => {
        if (!mine.sent) return
        for (const member of members) if (member !== mine) member.wake()
      },
      leave: () => {
        members.delete(mine)
        // Nobody hears any more what happens.
        if (members.size === 0 && this.#groups.get(name) === group) this.#groups.delete(name)
        if (this.#groups.size > 0) return
        clearInterval(this.#timer)
        this.#timer = undefined
      },
    }
  }

  /** Has one of each group look: another each time, should one of them never be answered. */
  #send(): void {
    for (const { members } of this.#groups.values()) {
      const [first] = members
      if (!first) continue
      members.delete(first)
      members.add(first)
      first.sent = true
      first.wake()
    }
  }
}
