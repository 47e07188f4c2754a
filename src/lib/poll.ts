import { setTimeout as delay } from 'node:timers/promises'

const firstPauseMs = 1
const longestPauseMs = 50

/** Looks until it is so, with growing pauses of 1 to 50 ms. Answers false when the time is over. */
export async function pollUntil (isSo: () => Promise<boolean>, timeoutMs: number): Promise<boolean> {
  const end = Date.now() + timeoutMs
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    if (await isSo()) return true
    if (Date.now() >= end) return false
    await delay(pauseMs)
  }
}
