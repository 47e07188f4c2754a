/** What lies in the log buffer of a task and passes through its channel. */
import { dataJson } from '../outputs/entry-json.ts'
import type { OutputEntry } from '../outputs/output-sink.ts'

/** Fields behind `data` are ours: entries of foreign workers have none of them. */
export interface FleetLogEntry {
  task_id: string
  /** Milliseconds since the epoch. */
  timestamp: number
  stream: 'stdout' | 'stderr'
  /** A line without its end. */
  data: string
  encoding?: 'base64'
  /** true: it goes on in the next entry of this stream. */
  partial?: true
  attempt?: number
  /** Number of the delivery that it is of. */
  fence?: number
  /** From 0, without a hole, over all entries of one delivery. */
  seq?: number
  cursor?: string
  /** Instead of output: output that is gone; `message` says why. */
  gap?: true
  message?: string
}

export interface FleetStatusEvent {
  task_id: string
  timestamp: number
  status: string
  exit_code?: number
  error?: string
  attempt?: number
  fence?: number
}

/** All output of a delivery is in the buffer. */
export interface FleetLogEnd {
  task_id: string
  timestamp: number
  attempt: number
  fence: number
  log_end: true
}

export interface Delivery {
  taskKey: string
  attempt: number
  fence: number
}

export function toFleetEntry ({ taskKey, attempt, fence }: Delivery, { seq, cursor, at, stream, data, isLineEnd, isGap }: OutputEntry): FleetLogEntry {
  const timestamp = Date.parse(at)
  return {
    task_id: taskKey,
    timestamp: Number.isNaN(timestamp) ? Date.now() : timestamp,
    stream,
    ...isGap ? { data: '' } : dataJson(data),
    ...!isLineEnd && !isGap && { partial: true },
    attempt,
    fence,
    seq,
    cursor,
    ...isGap && { gap: true, message: data.toString('utf8') },
  }
}

/** What was published or kept; undefined for what makes no sense. */
export function readFleetMessage (text: string): FleetLogEntry | FleetStatusEvent | FleetLogEnd | undefined {
  let found: unknown
  try {
    found = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof found !== 'object' || found === null) return undefined
  const fields = found as Record<string, unknown>
  if (typeof fields['data'] === 'string' && (fields['stream'] === 'stdout' || fields['stream'] === 'stderr')) return found as FleetLogEntry
  if (typeof fields['status'] === 'string' || fields['log_end'] === true) return found as FleetStatusEvent | FleetLogEnd
  return undefined
}
