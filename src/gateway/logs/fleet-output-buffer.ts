import { setImmediate } from 'node:timers/promises'
import { parseCursor } from '../../services/logs/log-cursor.ts'
import type { FleetLogEntry } from '../../services/fleet-wire/fleet-log-entry.ts'
import type { FleetLogBuffer, FleetLogItem } from '../../services/fleet-wire/fleet-log-buffer.ts'
import type { TaskRecord } from '../../services/tasks/task-record.ts'
import type { KeptEntry, KeptOutput, OutputBuffer } from './buffered-output.ts'

/** Items that are there already are given together, so many at most. */
const batchItems = 1000

/** The buffer of the fleet in Redis. What foreign workers wrote there has no place in a delivery, and is left out. */
export class FleetOutputBuffer implements OutputBuffer {
  readonly #buffer: Pick<FleetLogBuffer, 'read' | 'follow'>

  constructor (buffer: Pick<FleetLogBuffer, 'read' | 'follow'>) {
    this.#buffer = buffer
  }

  async read (task: TaskRecord): Promise<KeptOutput> {
    const { entries, endedFences } = await this.#buffer.read(keyOf(task))
    return { entries: entries.map(toKeptEntry).filter(entry => entry !== undefined), complete: new Set(endedFences) }
  }

  async * follow (task: TaskRecord, signal: AbortSignal): AsyncGenerator<KeptOutput> {
    const left = new AbortController()
    const items = this.#buffer.follow({ taskKey: keyOf(task), signal: AbortSignal.any([signal, left.signal]) })
    let next = items.next()
    try {
      for (let isOver = false; !isOver;) {
        const first = await next
        if (first.done) return
        const batch = [first.value]
        for (next = items.next(); batch.length < batchItems; next = items.next()) {
          const more = await Promise.race([next, setImmediate()])
          if (!more) break
          isOver = more.done === true
          if (more.done) break
          batch.push(more.value)
        }
        yield toKeptOutput(batch)
      }
    } finally {
      left.abort()
      next.catch(() => {}) // Nobody waits for it any more.
    }
  }
}

/** As its producer calls it. */
function keyOf ({ id, spec }: TaskRecord): string {
  return spec.fleet?.externalId ?? id
}

function toKeptOutput (items: readonly FleetLogItem[]): KeptOutput {
  return {
    entries: items.map(item => item.type === 'entry' ? toKeptEntry(item.entry) : undefined).filter(entry => entry !== undefined),
    complete: new Set(items.flatMap(item => item.type === 'end' ? [item.fence] : [])),
  }
}

function toKeptEntry ({ fence, seq, cursor, timestamp, stream, data, encoding, partial, gap, message }: FleetLogEntry): KeptEntry | undefined {
  if (!Number.isSafeInteger(fence) || !Number.isSafeInteger(seq) || !isCursor(cursor)) return undefined
  const time = new Date(timestamp)
  return {
    fence: fence!,
    seq: seq!,
    cursor,
    at: Number.isNaN(time.getTime()) ? new Date(0).toISOString() : time.toISOString(),
    stream,
    data: gap ? Buffer.from(String(message ?? 'output is missing here')) : Buffer.from(data, encoding === 'base64' ? encoding : 'utf8'),
    isLineEnd: partial !== true,
    ...(gap && { isGap: true }),
  }
}

/** Anybody with the password of Redis may have written it. */
function isCursor (cursor: unknown): cursor is string {
  try {
    return typeof cursor === 'string' && parseCursor(cursor) !== undefined
  } catch {
    return false
  }
}
