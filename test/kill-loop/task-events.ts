/** The story that events tell of each task: one beginning, one end, and every step between following from the one before. */
import type { Event } from '../../src/schemas/event.ts'

interface KnownTask { id: string, name: string }
interface Move { from: string, to: string }

const ends = ['complete', 'failed', 'cancelled']
/** A delivery that is given back is pending again. */
const moves: Readonly<Record<string, readonly string[]>> = {
  pending: ['scheduled', 'cancelled', 'failed'],
  scheduled: ['running', 'pending', ...ends],
  running: ['pending', ...ends],
}

export function haveAllEnded (events: readonly Event[], tasks: readonly KnownTask[]): boolean {
  const ended = new Set(events.filter(({ data }) => ends.includes(String(data['to']))).map(({ taskId }) => taskId))
  return tasks.every(({ id }) => ended.has(id))
}

/** What is wrong with the events of all tasks, as sentences. */
export function judgeEvents (events: readonly Event[], tasks: readonly KnownTask[]): string[] {
  const problems: string[] = []
  events.forEach(({ seq }, index) => {
    if (index > 0 && seq <= (events[index - 1]?.seq ?? 0)) problems.push(`event ${seq} was read behind ${events[index - 1]?.seq}`)
  })
  const known = new Set(tasks.map(({ id }) => id))
  for (const { seq, taskId = '' } of events) if (!known.has(taskId)) problems.push(`event ${seq} is of ${taskId}, of which nobody was told`)
  const byTask = Map.groupBy(events, ({ taskId }) => taskId)
  return [...problems, ...tasks.flatMap(({ id, name }) => judgeStory(byTask.get(id) ?? []).map(problem => `${name} (${id}): ${problem}`))]
}

function judgeStory (events: readonly Event[]): string[] {
  const problems: string[] = []
  const told = events.map(({ type, data }) => type === 'task.created' ? 'created' : `${String(data['from'])}→${String(data['to'])}`).join(' ')
  if (events[0]?.type !== 'task.created' || events.filter(({ type }) => type === 'task.created').length !== 1) problems.push('it was not created once, and first')
  let status = 'pending'
  for (const { data } of events.filter(({ type }) => type === 'task.status')) {
    const { from, to } = data as unknown as Move
    if (from !== status) problems.push(`it was ${status}, and moved from ${from}`)
    if (!moves[from]?.includes(to)) problems.push(`it moved from ${from} to ${to}`)
    status = to
  }
  if (!ends.includes(status)) problems.push(`its last status is ${status}`)
  return problems.map(problem => `${problem}; its events: ${told}`)
}
