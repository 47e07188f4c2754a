/** A server of S2, sinks that are closed with the test, and one who ships: in order, several batches under way, again from the first that failed. */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import pino from 'pino'
import type { OutputEntry, OutputSink, SinkState } from '../../src/services/outputs/output-sink.ts'
import { openS2Sink, type S2SinkOptions } from '../../src/services/outputs/s2-sink.ts'
import type { Teardown } from './registry.ts'
import { S2StreamServer } from './s2-stream-server.ts'

export const s2Basin = 'berth-test'
export const taskId = 'tsk_abc'
export const logsStream = `task.${taskId}.logs`
export const statusStream = `task.${taskId}.status`

export interface LogBody {
  task_id: string,
  timestamp: string,
  stream: string,
  data: string,
  seq: number,
  cursor: string,
  line_end: boolean
  encoding?: 'base64',
  gap?: boolean,
  message?: string
}

export function entryOf (seq: number, data: Buffer | string = `line ${seq}`, rest: Partial<OutputEntry> = {}): OutputEntry {
  const at = new Date(Date.UTC(2026, 0, 1) + seq).toISOString()
  return { seq, cursor: `0:${seq + 1}`, at, stream: seq % 3 === 0 ? 'stderr' : 'stdout', data: Buffer.from(data), isLineEnd: true, ...rest }
}

export function entriesOf (count: number, from = 0): OutputEntry[] {
  return Array.from({ length: count }, (_, index) => entryOf(from + index))
}

export class S2Rig {
  readonly server: S2StreamServer
  readonly #t: Teardown
  /** Everything that sinks have logged. */
  readonly logged: string[] = []

  private constructor (t: Teardown, server: S2StreamServer) {
    this.#t = t
    this.server = server
  }

  static async start (t: Teardown, options?: Parameters<typeof S2StreamServer.start>[1]): Promise<S2Rig> {
    return new S2Rig(t, await S2StreamServer.start(t, options))
  }

  async open (options: Partial<S2SinkOptions> = {}): Promise<OutputSink> {
    const logger = pino({ level: 'trace' }, { write: (line: string) => this.logged.push(line) })
    const sink = await openS2Sink({ taskId, basin: s2Basin, endpoint: this.server.endpoint, accessToken: this.server.token, state: undefined, logger, ...options })
    this.#t.after(() => sink.close())
    return sink
  }

  logs (stream = logsStream): LogBody[] {
    return this.server.bodies<LogBody>(s2Basin, stream)
  }

  /** That the stream has these entries, each once and in order. */
  assertLogs (count: number, stream = logsStream): void {
    assert.deepEqual(this.logs(stream).map(({ seq }) => seq), Array.from({ length: count }, (_, index) => index))
  }
}

interface ShipOptions {
  batchEntries?: number
  inFlight?: number
  /** Called with each failure; where it throws, the shipping ends. */
  onFailure?: (error: Error) => void | Promise<void>
  /** Called with each confirmation. */
  onConfirmed?: (state: SinkState, nextSeq: number) => void
}

/** Ships entries until all are confirmed, and answers the last state. */
export async function ship (sink: OutputSink, entries: readonly OutputEntry[], options: ShipOptions = {}): Promise<SinkState> {
  const { batchEntries = 10, inFlight = sink.limits.batchesInFlight, onFailure, onConfirmed } = options
  let state: SinkState
  let confirmed = 0
  while (confirmed < entries.length) {
    const flying: Array<Promise<SinkState>> = []
    let sent = confirmed
    try {
      while (confirmed < entries.length) {
        while (flying.length < inFlight && sent < entries.length) {
          const write = sink.write(entries.slice(sent, sent += batchEntries))
          write.catch(() => undefined)
          flying.push(write)
        }
        state = await flying.shift()
        confirmed = Math.min(confirmed + batchEntries, entries.length)
        onConfirmed?.(state, entries[confirmed - 1]?.seq ?? 0)
      }
    } catch (error) {
      await onFailure?.(error as Error)
      await Promise.allSettled(flying)
      await sleep(5)
    }
  }
  return state
}
