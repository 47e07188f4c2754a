import type { Readable } from 'node:stream'
import type { AttachedProcess } from '../../host/oci-runtime.ts'
import { raceWithDelay } from '../../lib/race.ts'

export interface AttachedEnd {
  exitCode: number
  signal?: string
  timedOut: boolean
  durationMs: number
}

export interface AttachedOptions {
  stdin: Buffer
  timeoutMs?: number
  signal?: AbortSignal
  /** Ends the process inside; its client alone would leave it running. */
  kill: () => Promise<void>
  /** Returns a promise when the receiver is full; reading goes on when it resolves. */
  onOutput: (stream: 'stdout' | 'stderr', chunk: Buffer) => Promise<void> | undefined
}

/** After the process has ended, a grandchild may hold its pipes open: what is in them by then is read, no more. */
const drainMs = 250

/** Feeds and reads an attached process until it has ended and its output is read. A receiver that is slow slows the process. */
export async function runAttached (attached: AttachedProcess, options: AttachedOptions): Promise<AttachedEnd> {
  const startedMs = performance.now()
  const { child } = attached
  let timedOut = false
  const kill = () => { void options.kill().catch(() => child.kill('SIGKILL')) }
  const timer = options.timeoutMs === undefined ? undefined : setTimeout(() => { timedOut = true; kill() }, options.timeoutMs)
  options.signal?.addEventListener('abort', kill, { once: true })
  if (options.signal?.aborted) kill()
  // The process may end without reading its input.
  child.stdin.on('error', () => {})
  child.stdin.end(options.stdin)
  let isStarted: Promise<boolean> | undefined
  const started = () => (isStarted ??= attached.hasStarted())
  const read = Promise.all([
    readAll(child.stdout, chunk => options.onOutput('stdout', chunk)),
    // Where the process was refused, what stands here is the runtime's complaint: the error says it better.
    readAll(child.stderr, async chunk => { if (await started()) await options.onOutput('stderr', chunk) }),
  ])
  try {
    const end = await attached.ended
    const durationMs = Math.round((performance.now() - startedMs) * 100) / 100
    await raceWithDelay(drainMs, [read])
    return { ...end, timedOut, durationMs }
  } finally {
    clearTimeout(timer)
    options.signal?.removeEventListener('abort', kill)
    child.stdout.destroy()
    child.stderr.destroy()
  }
}

async function readAll (stream: Readable, onChunk: (chunk: Buffer) => Promise<void> | undefined): Promise<void> {
  try {
    for await (const chunk of stream) await onChunk(chunk as Buffer)
  } catch { /* destroyed when the time to drain is over */ }
}
