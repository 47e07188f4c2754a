import { BerthError } from '../../errors.ts'
import type { SandboxLifecycle } from './sandbox-lifecycle.ts'

export type WaitTarget = 'stopped' | 'running'

/** Waits by event, never by polling, until a sandbox has ended or (running) is running or has ended. */
export function waitForStatus (sandbox: SandboxLifecycle, options: { timeoutMs?: number, signal?: AbortSignal, until?: WaitTarget } = {}): Promise<void> {
  const { timeoutMs, signal, until = 'stopped' } = options
  const isSo = () => sandbox.hasEnded || sandbox.record.deletedAt !== undefined || (until === 'running' && sandbox.status === 'running')
  return new Promise((resolve, reject) => {
    if (isSo()) return resolve()
    let timer: NodeJS.Timeout | undefined
    const finish = (settle: () => void) => {
      clearTimeout(timer)
      stopWatching()
      signal?.removeEventListener('abort', onAbort)
      settle()
    }
    // A daemon that ends says so; a client that left hears nothing anyway.
    const onAbort = () => finish(() => reject(signal?.reason instanceof BerthError ? signal.reason : new BerthError('cancelled', 'cancelled', 'the wait was given up')))
    const stopWatching = sandbox.watch(() => { if (isSo()) finish(resolve) })
    signal?.addEventListener('abort', onAbort, { once: true })
    if (timeoutMs !== undefined) {
      timer = setTimeout(() => finish(() => reject(new BerthError('timed_out', 'wait_timed_out', `the sandbox is still ${sandbox.status} after ${timeoutMs} ms; wait again`, { details: { status: sandbox.status } }))), timeoutMs)
    }
    if (signal?.aborted) onAbort()
  })
}
