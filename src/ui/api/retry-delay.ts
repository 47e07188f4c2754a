/** How long to wait before the next try. */

const firstMs = 250
const longestMs = 5000

/** Doubles with each failed try, up to five seconds; a random part of it, so that many pages do not come back at once. */
export function retryDelayMs (failures: number, random: () => number = Math.random): number {
  const most = Math.min(longestMs, firstMs * 2 ** Math.min(failures, 10))
  return Math.round(most / 2 + random() * most / 2)
}

/** Resolves after the time, or when the signal is aborted. */
export function sleep (ms: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    if (signal.aborted) return resolve()
    const end = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, ms)
    signal.addEventListener('abort', end)
  })
}
