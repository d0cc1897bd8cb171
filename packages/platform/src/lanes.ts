/**
 * Does `work` for each of `items`, so many at a time. After a failure none is begun any more; it is thrown when those
 * under way have ended.
 *
 * @param lanes how many at a time
 */
export async function forEach<T>(
  items: Iterable<T>,
  lanes: number,
  work: (item: T) => Promise<unknown>,
): Promise<void> {
  const left = [...items].values()
  const failures: unknown[] = []
  const lane = async () => {
    for (const item of left) {
      if (failures.length > 0) return
      await work(item).catch((error: unknown) => failures.push(error))
    }
  }
  await Promise.all(Array.from({ length: lanes }, lane))
  if (failures.length > 0) throw failures[0]
}
