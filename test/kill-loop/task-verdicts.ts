/** What must be so of a task that has ended, as sentences about what is not. */
import type { Task, TaskAttempt } from '../../src/schemas/task.ts'

/** What the log of a task holds, read when all was over. */
export interface TaskLog {
  stdout: Buffer
  stderr: Buffer
}

export interface ExpectedEnd {
  status: 'complete' | 'failed' | 'cancelled'
  reason: string
  exitCode?: number | undefined
  signal?: string | undefined
  /** How many attempts counted. */
  attempts: number
  isDeadLetter?: boolean
}

export function countedAttempts (task: Task): TaskAttempt[] {
  return task.attempts.filter(({ status }) => status !== 'returned')
}

export function endedAs (task: Task, expected: ExpectedEnd): string[] {
  const problems: string[] = []
  const demand = (what: string, actual: unknown, wanted: unknown) => {
    if (actual !== wanted) problems.push(`${what} is ${JSON.stringify(actual)}, not ${JSON.stringify(wanted)}`)
  }
  const { status, end } = task
  const attempts = countedAttempts(task)
  const last = attempts.at(-1)
  demand('its status', status, expected.status)
  demand('its reason', end?.reason, expected.reason)
  if (expected.exitCode !== undefined) demand('its exit code', end?.exitCode, expected.exitCode)
  if (expected.signal !== undefined) demand('its signal', end?.signal, expected.signal)
  demand('the number of its attempts', attempts.length, expected.attempts)
  demand('that it is a dead letter', task.isDeadLetter ?? false, expected.isDeadLetter ?? false)
  demand('the numbers of its attempts', attempts.map(({ number }) => number).join(), attempts.map((_attempt, index) => index + 1).join())
  if (task.endedAt === undefined || end === undefined) problems.push('it has no end')
  if (expected.attempts > 0) demand('the status of its last attempt', last?.status, expected.status)
  for (const attempt of attempts) {
    if (attempt.endedAt === undefined) problems.push(`its attempt ${attempt.number} has no end`)
    // Cancelled or refused before it had a sandbox.
    if (attempt.startedAt === undefined && attempt.status === 'complete') problems.push(`its attempt ${attempt.number} is complete without having begun`)
  }
  if (problems.length === 0) return []
  return [`${problems.join(', ')}; ${JSON.stringify({ status, end, attempts: task.attempts.map(({ number, status, end }) => ({ number, status, end })) })}`]
}

/** The log is just this, byte for byte. */
export function plainLog (log: TaskLog, said: { stdout?: Buffer | string, stderr?: Buffer | string }): string[] {
  return (['stdout', 'stderr'] as const).flatMap(stream => {
    const wanted = Buffer.from(said[stream] ?? '')
    return log[stream].equals(wanted) ? [] : [`its ${stream} is otherwise: ${difference(log[stream], wanted)}`]
  })
}

/** Where bytes differ first, with what is there. */
export function difference (actual: Buffer, expected: Buffer): string {
  const shorter = Math.min(actual.length, expected.length)
  let at = 0
  while (at < shorter && actual[at] === expected[at]) at++
  const show = (bytes: Buffer) => JSON.stringify(bytes.subarray(Math.max(0, at - 20), at + 40).toString('latin1'))
  return `${actual.length} bytes for ${expected.length}, from byte ${at} on ${show(actual)} for ${show(expected)}`
}
