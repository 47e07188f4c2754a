import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Task } from '../schemas/task.ts'
import { gather } from './key-values.ts'
import { checkFilter, filterValues, labelFilter } from './list-filters.ts'
import { describeLabels } from './sandbox-text.ts'
import type { Shell } from './shell.ts'
import { formatTable, shorten } from './table.ts'
import { listTasks } from './target-finder.ts'
import { describeTaskStatus, openTaskStatuses, taskStatuses } from './task-text.ts'
import { describeSpan, parseDuration } from './units.ts'

interface ListFlags {
  all?: boolean
  quiet?: boolean
  filter?: string[]
  since?: string
  until?: string
  deadLetters?: boolean
  json?: boolean
  trunc: boolean
}

const columnWidth = 32
const filterKeys = { status: taskStatuses, pool: undefined }
const filterExamples = 'label=team=blue, status=failed or pool=gpu'

export function addTaskListCommand (task: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  task.command('ls').alias('ps').summary('list tasks')
    .description('Lists the tasks that have not ended, the newest first; -a lists all.')
    .option('-a, --all', 'also those that have ended')
    .option('-q, --quiet', 'ids only')
    .option('--filter <KEY=VALUE>', 'label=team=blue, label=team, status=failed or pool=gpu; may be repeated', (value: string, before: string[] | undefined) => gather(checkFilter(value, filterKeys, filterExamples), before))
    .option('--since <TIME>', 'created at or after this, like 2h (ago) or 2026-03-01T09:30:00Z')
    .option('--until <TIME>', 'created before this')
    .option('--dead-letters', 'only those that failed for good after several attempts, or without ever having been run')
    .option('--no-trunc', 'whole commands and labels')
    .option('--json', 'print a JSON array')
    .action((flags: ListFlags) => act(list(shell, flags)))
}

async function list (shell: Shell, flags: ListFlags): Promise<number> {
  const pools = filterValues(flags.filter, 'pool')
  if (pools.length > 1) throw new BerthError('invalid_argument', 'usage', '--filter: a task is of one pool only; name one')
  const statuses = filterValues(flags.filter, 'status')
  const labels = labelFilter(flags.filter)
  const query = {
    status: statuses.length > 0 ? statuses : flags.all || flags.deadLetters ? undefined : [...openTaskStatuses],
    label: labels.whole,
    pool: pools[0],
    since: parseMoment(flags.since, '--since'),
    until: parseMoment(flags.until, '--until'),
    deadLetter: flags.deadLetters,
  }
  const found: Task[] = []
  for await (const task of listTasks(shell.client(), query)) if (labels.matches(task.labels)) found.push(task)
  if (flags.json) await shell.output.json(found)
  else if (flags.quiet) for (const { id } of found) await shell.output.line(id)
  else await shell.output.out(formatTasks(found, flags.trunc))
  return 0
}

function formatTasks (tasks: Task[], isShort: boolean): string {
  const limit = isShort ? columnWidth : Infinity
  const now = Date.now()
  return formatTable(['TASK ID', 'IMAGE', 'COMMAND', 'CREATED', 'STATUS', 'LABELS'], tasks.map(task => [
    task.id,
    shorten(task.image, limit),
    task.entrypoint ? JSON.stringify(shorten(task.entrypoint.join(' '), limit)) : '-',
    `${describeSpan(now - Date.parse(task.createdAt))} ago`,
    describeTaskStatus(task, now),
    shorten(describeLabels(task.labels), limit),
  ]))
}

/** A time, or how long ago it was. */
function parseMoment (text: string | undefined, option: string): string | undefined {
  if (text === undefined) return undefined
  const time = /^\d{4}-\d\d-\d\d/.test(text) ? new Date(text) : new Date(Date.now() - parseDuration(text, option))
  if (Number.isNaN(time.getTime())) throw new BerthError('invalid_argument', 'usage', `${option}: '${text}' is no time; write it like 2026-03-01T09:30:00Z, or 2h for two hours ago`)
  return time.toISOString()
}
