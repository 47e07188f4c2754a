/**
 * A task as the hash that the scripts keep. Times are milliseconds since the epoch, history is a list of JSON objects with commas between.
 * Of each delivery: `a:<fence>` how it began, `f:<fence>` the facts of its start, `e:<fence>` its end: status, time, ending.
 * Fields of another version are passed over.
 */
import type { TaskEnd, TaskStatus } from '../../schemas/task.ts'
import type { AttemptRecord, StatusChange, TaskRecord, TaskSpec } from '../tasks/task-record.ts'

/** What HGETALL answers: names and values in turns. */
export type FlatHash = readonly string[]

/** Answers undefined for a hash that is not there. */
export function toTaskRecord (flat: FlatHash): TaskRecord | undefined {
  const fields = new Map<string, string>()
  for (let index = 0; index < flat.length; index += 2) fields.set(flat[index]!, flat[index + 1]!)
  const spec = fields.get('spec')
  if (spec === undefined) return undefined
  const end = fields.get('end')
  return {
    id: fields.get('id')!,
    spec: JSON.parse(spec) as TaskSpec,
    status: fields.get('status') as TaskStatus,
    attempt: Number(fields.get('attempt')),
    attempts: attemptsOf(fields),
    history: historyOf(fields.get('history')),
    createdAt: isoTime(fields.get('createdAt')),
    availableAt: isoTime(fields.get('availableAt')),
    ...fields.has('endedAt') && { endedAt: isoTime(fields.get('endedAt')) },
    ...fields.has('cancelAt') && { cancelRequestedAt: isoTime(fields.get('cancelAt')) },
    ...end !== undefined && { end: endOf(end) },
    ...fields.has('isDead') && { isDeadLetter: true },
  }
}

/** The same text for the same end, whoever writes it. */
export function canonicalEnd (end: TaskEnd): string {
  return JSON.stringify(Object.fromEntries(Object.entries(end).sort(([a], [b]) => a < b ? -1 : 1)))
}

/** What the history says of an end, as members of a JSON object. */
export function reasonMembers ({ reason, exitCode, message }: TaskEnd): string {
  return JSON.stringify({ reason, exitCode, message }).slice(1, -1)
}

function attemptsOf (fields: ReadonlyMap<string, string>): AttemptRecord[] {
  const attempts: AttemptRecord[] = []
  for (const [name, value] of fields) if (name.startsWith('a:')) attempts.push(attemptOf(name.slice(2), value, fields))
  return attempts.sort((a, b) => a.fence - b.fence)
}

function attemptOf (fence: string, begin: string, fields: ReadonlyMap<string, string>): AttemptRecord {
  const { claimedAt, ...known } = JSON.parse(begin) as Omit<AttemptRecord, 'claimedAt' | 'status'> & { claimedAt: number }
  const facts = fields.get(`f:${fence}`)
  const attempt: AttemptRecord = { ...known, status: facts === undefined ? 'scheduled' : 'running', claimedAt: isoTime(claimedAt), ...facts !== undefined && JSON.parse(facts) }
  const [, status, at, end] = /^(\S+) (\S+) (.*)$/s.exec(fields.get(`e:${fence}`) ?? '') ?? []
  return status === undefined ? attempt : { ...attempt, status: status as AttemptRecord['status'], endedAt: isoTime(at), end: endOf(end!) }
}

function historyOf (text: string | undefined): StatusChange[] {
  const changes = JSON.parse(`[${text ?? ''}]`) as Array<Omit<StatusChange, 'at'> & { at: number }>
  return changes.map(change => ({ ...change, at: isoTime(change.at) }))
}

/** Ends that a script wrote have their time as a number. */
function endOf (text: string): TaskEnd {
  const end = JSON.parse(text) as Omit<TaskEnd, 'at'> & { at: string | number }
  return { ...end, at: typeof end.at === 'number' ? isoTime(end.at) : end.at }
}

function isoTime (ms: string | number | undefined): string {
  return new Date(Number(ms ?? 0)).toISOString()
}
