/** Waits for the first of the promises, at most this long. */
export async function raceWithDelay (timeoutMs: number, promises: ReadonlyArray<Promise<unknown>>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const delay = new Promise<void>(resolve => { timer = setTimeout(resolve, timeoutMs) })
  try {
    await Promise.race([...promises, delay])
  } finally {
    clearTimeout(timer)
  }
}
