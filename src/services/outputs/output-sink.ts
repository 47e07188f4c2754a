/** Where lines of output are delivered to. One sink serves one output of one task. */
import type { LogStream } from '../../schemas/log.ts'

/** A line, or a piece of one that is too long for one entry. */
export interface OutputEntry {
  /** From 0, without a hole, over all that this output delivers; the same line has the same number in every delivery. */
  seq: number
  /** Place in the log just behind it. */
  cursor: string
  /** When its first byte was read, ISO 8601. */
  at: string
  stream: LogStream
  /** Without its line end. What the process wrote, byte for byte. */
  data: Buffer
  /** false: it goes on in the next entry of this stream, or ended without a line end. */
  isLineEnd: boolean
  /** Instead of output: output that is gone before it could be delivered. `data` says why. */
  isGap?: boolean
}

/** What became of a task, in the order in which it did; number n is always the same. */
export interface StatusEntry {
  seq: number
  at: string
  status: string
  attempt: number
  reason?: string
  exitCode?: number
  message?: string
}

/** What a sink wants to be told when it is opened again; JSON. */
export type SinkState = Record<string, unknown> | undefined

export interface OutputSink {
  /** At most so many bytes of data and entries per batch, and batches under way at once (1: one after the other). */
  readonly limits: { batchBytes: number, batchEntries: number, batchesInFlight: number, entryBytes: number }
  /**
   * Delivers a batch; called in order, and resolved once the destination has it for good. Answers the state to keep with the place.
   * @throws SinkRefusal where trying again is no use; anything else is tried again from the first batch that was not confirmed.
   */
  write: (batch: readonly OutputEntry[]) => Promise<SinkState>
  /** The same for what became of the task; absent where the destination has no use for it. */
  writeStatus?: (entries: readonly StatusEntry[]) => Promise<void>
  close: () => Promise<void>
}

/** The destination will never take this: the output is given up, and says so. */
export class SinkRefusal extends Error {
  constructor (message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'SinkRefusal'
  }
}

/** The destination asks to be left alone for a while: what depends on it is tried again after so many milliseconds. */
export class SinkBusy extends Error {
  readonly retryAfterMs: number
  constructor (message: string, retryAfterMs: number) {
    super(message)
    this.name = 'SinkBusy'
    this.retryAfterMs = retryAfterMs
  }
}
