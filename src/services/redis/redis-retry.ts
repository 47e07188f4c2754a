import { setTimeout as delay } from 'node:timers/promises'
import { reconnectPause } from './redis-client.ts'

export interface RetryOptions {
  signal: AbortSignal
  onError: (error: unknown) => void
}

/** Tries until it succeeds, with growing pauses; answers undefined when the signal is aborted, and never rejects. */
export async function retryForEver<T> (work: () => Promise<T>, { signal, onError }: RetryOptions): Promise<T | undefined> {
  for (let attempt = 1; !signal.aborted; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (signal.aborted) return undefined
      onError(error)
      await delay(reconnectPause(attempt), undefined, { signal }).catch(() => undefined)
    }
  }
  return undefined
}
