// Claims that wait for the same queues look for each other. Wake-ups and due times bring each of them its jobs; what is
// left is the notification that was lost, and to find that out one look for all is enough: hundreds of idle workers
// cost a statement every few seconds, however many they are. Who finds something that way tells the others.
import { slowPollMs } from './wait.ts'

/** One of those who wait. */
export interface Scout {
  /** Tells the others to look, if this one has found something that nobody was told of. */
  found(): void
  /** It waits no longer. */
  leave(): void
}

interface Member {
  wake(): void
  /** Has looked for the others. */
  sent: boolean
}

/** All who wait at one server, by what they wait for. */
export class Scouts {
  readonly #groups = new Map<string, Set<Member>>()
  #timer: NodeJS.Timeout | undefined

  /**
   * Joins those who wait for the same.
   *
   * @param wake makes it look
   */
  join(group: string, wake: () => void): Scout {
    const members = this.#groups.get(group) ?? new Set()
    this.#groups.set(group, members)
    const mine: Member = { wake, sent: false }
    members.add(mine)
    this.#timer ??= setInterval(() => this.#send(), slowPollMs).unref()
    return {
      found: () => {
        if (!mine.sent) return
        for (const member of members) if (member !== mine) member.wake()
      },
      leave: () => {
        members.delete(mine)
        if (members.size === 0 && this.#groups.get(group) === members) this.#groups.delete(group)
        if (this.#groups.size > 0) return
        clearInterval(this.#timer)
        this.#timer = undefined
      },
    }
  }

  /** Has one of each group look: another each time, should one of them never be answered. */
  #send(): void {
    for (const members of this.#groups.values()) {
      const [first] = members
      if (!first) continue
      members.delete(first)
      members.add(first)
      first.sent = true
      first.wake()
    }
  }
}
