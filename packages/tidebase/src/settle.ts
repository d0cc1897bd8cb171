// Work of which each part stands for itself.

/**
 * Waits until all of it has ended, also when a part fails: whoever is told of a failure finds nothing still under way.
 *
 * @returns the results in their order
 * @throws the reason of the first part that failed, in their order
 */
export async function allEnded<T>(work: Iterable<T>): Promise<Awaited<T>[]> {
  const ended = await Promise.allSettled(work)
  return ended.map((part) => {
    if (part.status === 'rejected') throw part.reason
    return part.value
  })
}
