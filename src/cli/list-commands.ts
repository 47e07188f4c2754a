import { InvalidArgumentError, type Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { gather } from './key-values.ts'
import { listSandboxes, resolveSandboxId } from './sandbox-finder.ts'
import { describeLabels, describeStatus, isEnded } from './sandbox-text.ts'
import { forEachId, type Shell } from './shell.ts'
import { formatTable, shorten } from './table.ts'
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

export function addListCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  program.command('ps').alias('ls').summary('list sandboxes')
    .description('Lists the sandboxes that have not ended; -a lists all.')
    .option('-a, --all', 'also those that have ended')
    .option('-q, --quiet', 'ids only')
    .option('--filter <KEY=VALUE>', 'label=team=blue, label=team or status=paused; may be repeated', (value: string, before: string[] | undefined) => gather(checkFilter(value), before))
    .option('--no-trunc', 'whole commands and labels')
    .option('--json', 'print a JSON array')
    .action((flags: ListFlags) => act(list(shell, flags)))
  program.command('inspect').summary('show all that is known of sandboxes, as JSON').description('Shows all that is known of sandboxes, as a JSON array.')
    .argument('<ID...>', 'id or the unique beginning of one')
    .option('--json', 'the default')
    .action((ids: string[]) => act(inspect(shell, ids)))
}

async function list (shell: Shell, flags: ListFlags): Promise<number> {
  const filters = (flags.filter ?? []).map(filter => splitOnce(filter))
  const wanted = filters.filter(([key]) => key === 'status').map(([, value]) => value)
  const labels = filters.filter(([key]) => key === 'label').map(([, value]) => splitOnce(value))
  const query = {
    // The daemon filters by whole labels; the rest is done here.
    status: wanted.length > 0 ? wanted.filter(status => status !== undefined) : flags.all ? undefined : statuses.slice(0, -endedStatuses),
    label: labels.filter(([, value]) => value !== undefined).map(([key, value]) => `${key}=${value}`),
  }
  const found: Sandbox[] = []
  for await (const sandbox of listSandboxes(shell.client(), query)) {
    if (wanted.length > 0 ? !wanted.includes(sandbox.status) : !flags.all && isEnded(sandbox)) continue
    if (labels.every(([key, value]) => value === undefined ? Object.hasOwn(sandbox.labels, key) : sandbox.labels[key] === value)) found.push(sandbox)
  }
  if (flags.json) await shell.output.json(found)
  else if (flags.quiet) for (const { id } of found) await shell.output.line(id)
  else await shell.output.out(formatSandboxes(found, flags.trunc))
  return 0
}

function formatSandboxes (sandboxes: Sandbox[], isShort: boolean): string {
  const limit = isShort ? commandWidth : Infinity
  const now = Date.now()
  return formatTable(['SANDBOX ID', 'IMAGE', 'COMMAND', 'CREATED', 'STATUS', 'LABELS'], sandboxes.map(sandbox => [
    sandbox.id,
    shorten(sandbox.image.reference, limit),
    sandbox.entrypoint ? JSON.stringify(shorten(sandbox.entrypoint.join(' '), limit)) : '-',
    `${describeSpan(now - Date.parse(sandbox.createdAt))} ago`,
    describeStatus(sandbox, now),
    shorten(describeLabels(sandbox.labels), limit),
  ]))
}

async function inspect (shell: Shell, ids: string[]): Promise<number> {
  const found: Sandbox[] = []
  const exitCode = await forEachId(shell, ids, async given => {
    const id = await resolveSandboxId(shell.client(), given)
    found.push(await shell.client().request<Sandbox>('GET', `/v1/sandboxes/${id}`))
  })
  await shell.output.json(found)
  return exitCode
}

function checkFilter (filter: string): string {
  const [key, value] = splitOnce(filter)
  if (key === 'label' && value) return filter
  if (key === 'status' && value !== undefined) {
    if (statuses.includes(value)) return filter
    throw new InvalidArgumentError(`a status is one of ${statuses.join(', ')}.`)
  }
  throw new InvalidArgumentError('write it like label=team=blue or status=paused.')
}

function splitOnce (text: string | undefined): [key: string, value: string | undefined] {
  if (text === undefined) throw new BerthError('invalid_argument', 'usage', '--filter: write it like label=team=blue or status=paused')
  const at = text.indexOf('=')
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)]
}
