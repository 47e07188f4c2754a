/** Names of what an airstore gateway and its workers share in Redis. */
import { createHash } from 'node:crypto'

/** How long states, results and logs are kept, in seconds. */
export const keptSeconds = 24 * 3600

const alphabet = '0123456789abcdefghijklmnopqrstuv'
const idLength = 20

export interface WireKeys {
  /** List of tasks: producers push on the left. */
  queue: (pool: string) => string
  /** List of what was no task, newest first. */
  rejected: (pool: string) => string
  /** Who takes tasks in, for a few seconds. */
  intake: (pool: string) => string
  /** Set of tasks that a worker has. */
  inFlight: (pool: string) => string
  state: (task: string) => string
  result: (task: string) => string
  /** Highest attempt that was taken in. */
  attempt: (task: string) => string
  /** Channel of log entries and status events. */
  logs: (task: string) => string
  /** List of log entries. */
  logBuffer: (task: string) => string
  /** What is known of a log buffer; on the same node of a cluster. */
  logPlace: (task: string) => string
  /** Channel; of all tasks as a pattern. */
  cancel: (task: string) => string
}

export function wireKeys (prefix: string): WireKeys {
  const named = (kind: string) => (name: string): string => `${prefix}:${kind}:${name}`
  const logBuffer = named('task_logs_buf')
  return {
    queue: named('task_queue'),
    rejected: named('task_rejected'),
    intake: named('task_intake'),
    inFlight: named('task_inflight'),
    state: named('task_state'),
    result: named('task_result'),
    attempt: named('task_attempt'),
    logs: named('task_logs'),
    logBuffer,
    // A key without braces lies where one lies that has all of it between braces.
    logPlace: task => prefix.includes('{') ? `${logBuffer(task)}:place` : `{${logBuffer(task)}}:place`,
    cancel: task => `${prefix}:terminal:${task}:cancel`,
  }
}

/** The id under which a task of a foreign producer is queued: always the same for the same id of theirs. */
export function taskIdOf (externalId: string): string {
  const bytes = createHash('sha256').update(externalId).digest()
  let text = ''
  for (const byte of bytes.subarray(0, idLength)) text += alphabet[byte & 31]
  return `tsk_${text}`
}
