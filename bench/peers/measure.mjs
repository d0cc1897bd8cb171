// What the peers' scripts share.

/** Things done per second since `began`, ms of `performance.now()`. */
export const rate = (count, began) => Math.round((count * 1000) / (performance.now() - began))

/** Runs `task` `total` times, `concurrent` at once. */
export async function repeat(total, concurrent, task) {
  let next = 0
  const worker = async () => {
    while (next < total) await task(next++)
  }
  await Promise.all(Array.from({ length: concurrent }, worker))
}
