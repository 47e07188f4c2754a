import { setTimeout as delay } from 'node:timers/promises'
import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Host, HostDrainRequest } from '../schemas/host.ts'
import type { QueueStatus } from '../schemas/task.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import type { Shell } from './shell.ts'
import { describeSpan, parseDuration } from './units.ts'

interface Flags {
  json?: boolean
}

interface DrainFlags extends Flags {
  wait?: boolean
  timeout?: string
  stopAfter?: string
}

const lookEveryMs = 500

/** Below `berth host`. */
export function addDrainCommands (host: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  host.command('drain').summary('have the host take nothing more').description('Has the host take no more tasks and sandboxes; what runs goes on. It stays so, over restarts of the daemon, until berth host undrain.')
    .option('--wait', 'until no task runs')
    .option('--timeout <DURATION>', 'wait no longer than this, like 10m; the host stays drained')
    .option('--stop-after <DURATION>', 'stop tasks that still run after this long, and give them back to the queue')
    .option('--json', 'print JSON')
    .action((flags: DrainFlags) => act(drain(shell, flags)))
  host.command('undrain').summary('have the host take tasks and sandboxes again').description('Has the host take tasks and sandboxes again.')
    .option('--json', 'print JSON')
    .action((flags: Flags) => act(undrain(shell, flags)))
}

async function drain (shell: Shell, flags: DrainFlags): Promise<number> {
  if (flags.timeout !== undefined && !flags.wait) throw usage('--timeout: it is for --wait')
  const timeoutMs = flags.timeout === undefined ? undefined : parseDuration(flags.timeout, '--timeout')
  const host = await shell.client().request<Host>('POST', '/v1/host/drain', { body: toRequest(flags) })
  if (flags.wait) await waitUntilIdle(shell, timeoutMs)
  await show(shell, host, flags)
  return 0
}

async function undrain (shell: Shell, flags: Flags): Promise<number> {
  await show(shell, await shell.client().request<Host>('POST', '/v1/host/undrain'), flags)
  return 0
}

async function show (shell: Shell, host: Host, flags: Flags): Promise<void> {
  await (flags.json ? shell.output.json(host) : shell.output.line(host.id))
}

function toRequest ({ stopAfter }: DrainFlags): HostDrainRequest {
  return stopAfter === undefined ? {} : { stopAfterMs: parseDuration(stopAfter, '--stop-after') }
}

/** Says how many tasks are left whenever that has changed. @throws BerthError timed_out; conflict where somebody undrains meanwhile. */
async function waitUntilIdle (shell: Shell, timeoutMs = Infinity): Promise<void> {
  const left = new AbortController()
  using _ = watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal)))
  const { signal } = left
  const endsAt = performance.now() + timeoutMs
  for (let said: number | undefined; ;) {
    const { pools } = await shell.client().request<QueueStatus>('GET', '/v1/queue', { signal, isPatient: true })
    const count = pools.reduce((sum, { scheduled, running }) => sum + scheduled + running, 0)
    if (count === 0) return
    if (count !== said) await shell.output.note(`${formatCount(count)} left`)
    said = count
    const host = await shell.client().request<Host>('GET', '/v1/host', { signal, isPatient: true })
    if (host.drain === undefined) throw new BerthError('conflict', 'invalid_state', 'the host was undrained meanwhile: it takes tasks again')
    const leftMs = endsAt - performance.now()
    if (leftMs <= 0) throw new BerthError('timed_out', 'wait_timed_out', `after ${describeSpan(timeoutMs)} there are still ${formatCount(count)}; the host stays drained`)
    await delay(Math.min(lookEveryMs, leftMs), undefined, { signal }).catch(() => signal.throwIfAborted())
  }
}

function formatCount (count: number): string {
  return count === 1 ? '1 task' : `${count} tasks`
}

function usage (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
