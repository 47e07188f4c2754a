import type { CliContext, EndSignal } from './cli-context.ts'

/** Counts Ctrl-C and SIGTERM from here on; each one calls the handler with its number, from 1. */
export function watchInterrupts (context: CliContext, handle: (count: number, signal: 'SIGINT' | 'SIGTERM') => void): Disposable {
  let count = 0
  const removers = (['SIGINT', 'SIGTERM'] as const).map(signal => context.onSignal(signal, () => handle(++count, signal)))
  return { [Symbol.dispose]: () => { for (const remove of removers) remove() } }
}

// 128 and the number of the signal.
const exitCodes: Record<EndSignal, number> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }

/** The person gave up waiting: berth leaves as the signal would have made it. */
export class InterruptedError extends Error {
  readonly exitCode: number

  constructor (signal: EndSignal) {
    super(`ended by ${signal}`)
    this.name = 'InterruptedError'
    this.exitCode = exitCodes[signal]
  }
}
