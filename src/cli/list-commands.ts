import type { Command } from 'commander'
import type { Sandbox } from '../schemas/sandbox.ts'
import type { Task } from '../schemas/task.ts'
import { gather } from './key-values.ts'
import { checkFilter, filterValues, labelFilter } from './list-filters.ts'
import { describeLabels, describeStatus, isEnded } from './sandbox-text.ts'
import { forEachId, type Shell } from './shell.ts'
import { formatTable, shorten } from './table.ts'
import { listSandboxes, resolveTarget } from './target-finder.ts'
import { describeSpan } from './units.ts'

interface ListFlags {
  all?: boolean
  quiet?: boolean
  filter?: string[]
  json?: boolean
  trunc: boolean
}

const statuses = ['pending', 'creating', 'created', 'running', 'paused', 'stopping', 'stopped', 'failed']
// stopped and failed, the last ones of the list above.
const endedStatuses = 2
const commandWidth = 32
const filterKeys = { status: statuses }

export function addListCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  program.command('ps').alias('ls').summary('list sandboxes')
    .description('Lists the sandboxes that have not ended; -a lists all.')
    .option('-a, --all', 'also those that have ended')
    .option('-q, --quiet', 'ids only')
    .option('--filter <KEY=VALUE>', 'label=team=blue, label=team or status=paused; may be repeated', (value: string, before: string[] | undefined) => gather(checkFilter(value, filterKeys, 'label=team=blue or status=paused'), before))
    .option('--no-trunc', 'whole commands and labels')
    .option('--json', 'print a JSON array')
    .action((flags: ListFlags) => act(list(shell, flags)))
  program.command('inspect').summary('show all that is known of sandboxes or tasks, as JSON').description('Shows all that is known of sandboxes or tasks, as a JSON array.')
    .argument('<ID...>', 'id or the unique beginning of one')
    .option('--json', 'the default')
    .action((ids: string[]) => act(inspect(shell, ids)))
}

async function list (shell: Shell, flags: ListFlags): Promise<number> {
  const wanted = filterValues(flags.filter, 'status')
  const labels = labelFilter(flags.filter)
  const query = {
    status: wanted.length > 0 ? wanted : flags.all ? undefined : statuses.slice(0, -endedStatuses),
    label: labels.whole,
  }
  const found: Sandbox[] = []
  for await (const sandbox of listSandboxes(shell.client(), query)) {
    if (wanted.length > 0 ? !wanted.includes(sandbox.status) : !flags.all && isEnded(sandbox)) continue
    if (labels.matches(sandbox.labels)) found.push(sandbox)
  }
  if (flags.json) await shell.output.json(found)
  else if (flags.quiet) for (const { id } of found) await shell.output.line(id)
  else await shell.output.out(formatSandboxes(found, flags.trunc))
  return 0
}

function formatSandboxes (sandboxes: Sandbox[], isShort: boolean): string {
  const limit = isShort ? commandWidth : Infinity
  const now = Date.now()
  return formatTable(['SANDBOX ID', 'IMAGE', 'COMMAND', 'CREATED', 'STATUS', 'TASK', 'LABELS'], sandboxes.map(sandbox => [
    sandbox.id,
    shorten(sandbox.image.reference, limit),
    sandbox.entrypoint ? JSON.stringify(shorten(sandbox.entrypoint.join(' '), limit)) : '-',
    `${describeSpan(now - Date.parse(sandbox.createdAt))} ago`,
    describeStatus(sandbox, now),
    sandbox.taskId ?? '-',
    shorten(describeLabels(sandbox.labels), limit),
  ]))
}

async function inspect (shell: Shell, ids: string[]): Promise<number> {
  const found: Array<Sandbox | Task> = []
  const exitCode = await forEachId(shell, ids, async given => {
    const { kind, id } = await resolveTarget(shell.client(), given)
    found.push(await shell.client().request('GET', `/v1/${kind === 'task' ? 'tasks' : 'sandboxes'}/${id}`))
  })
  await shell.output.json(found)
  return exitCode
}
