import type { CliContext } from './cli-context.ts'

/** Counts Ctrl-C and SIGTERM from here on; each one calls the handler with its number, from 1. */
export function watchInterrupts (context: CliContext, handle: (count: number, signal: 'SIGINT' | 'SIGTERM') => void): Disposable {
  let count = 0
  const removers = (['SIGINT', 'SIGTERM'] as const).map(signal => context.onSignal(signal, () => handle(++count, signal)))
  return { [Symbol.dispose]: () => { for (const remove of removers) remove() } }
}

/** The person gave up waiting: berth leaves as the signal would have made it. */
export class InterruptedError extends Error {
  readonly exitCode: number

  constructor (signal: 'SIGINT' | 'SIGTERM') {
    super(`ended by ${signal}`)
    this.name = 'InterruptedError'
    this.exitCode = signal === 'SIGINT' ? 130 : 143
  }
}
