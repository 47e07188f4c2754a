import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Event } from '../schemas/event.ts'
import type { Exec } from '../schemas/exec.ts'
import type { LogEnd, LogRecord } from '../schemas/log.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import type { Task } from '../schemas/task.ts'
import { throwIfError } from './client.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { followLog } from './log-follower.ts'
import { LogPrinter } from './log-printer.ts'
import { isEnded } from './sandbox-text.ts'
import { followRecords, pastRecords } from './seq-follower.ts'
import type { Shell } from './shell.ts'
import { shorten } from './table.ts'
import { resolveSandboxId, resolveTarget } from './target-finder.ts'
import { isTaskEnded } from './task-text.ts'
import { parseCount } from './units.ts'

export interface LogFlags {
  follow?: boolean
  tail?: string
  timestamps?: boolean
  since?: string
  stdout?: boolean
  stderr?: boolean
  json?: boolean
}

interface EventFlags {
  follow?: boolean
  since?: string
  json?: boolean
}

export function addLogCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  addLogOptions(program.command('logs').summary('show what a sandbox or a task has written').description('Shows what a sandbox or a task has written: its standard output on ours, its standard error on ours.')
    .argument('<ID>', 'id or the unique beginning of one'))
    .option('--exec <EXEC-ID>', 'the log of a detached exec')
    .action((id: string, flags: LogFlags & { exec?: string }) => act(showLog(shell, id, flags)))
  program.command('events').summary('show what has happened on the host').description('Shows what has happened to sandboxes, execs and tasks on the host; with -f what happens from this moment on.')
    .option('-f, --follow', 'what happens from this moment on')
    .option('--since <SEQ>', 'read on behind this event')
    .option('--json', 'print the events, one JSON object a line')
    .action((flags: EventFlags) => act(showEvents(shell, flags)))
}

export function addLogOptions (command: Command): Command {
  return command
    .option('-f, --follow', 'go on as it writes more, until it ends')
    .option('-n, --tail <N>', 'only the last lines')
    .option('-t, --timestamps', 'put the time before each line')
    .option('--since <CURSOR>', 'read on behind a record of --json')
    .option('--stdout', 'standard output only').option('--stderr', 'standard error only')
    .option('--json', 'print the records, one JSON object a line')
}

async function showLog (shell: Shell, given: string, { exec, ...flags }: LogFlags & { exec?: string }): Promise<number> {
  if (exec !== undefined && !/^exe_[a-z0-9]{20}$/.test(exec)) throw new BerthError('invalid_argument', 'usage', `--exec: '${exec}' is not the id of an exec; berth exec -d prints it`)
  const client = shell.client()
  const { kind, id } = exec === undefined ? await resolveTarget(client, given) : { kind: 'sandbox', id: await resolveSandboxId(client, given) }
  if (kind === 'task') return showTaskLog(shell, id, flags)
  const sandbox = `/v1/sandboxes/${id}`
  if (exec === undefined) return print(shell, flags, { owner: sandbox, isOver: owner => isEnded(owner as Sandbox) })
  return print(shell, flags, { owner: `${sandbox}/execs/${exec}`, isOver: owner => !['starting', 'running'].includes((owner as Exec).status) })
}

/** What a task has written, over all its attempts or in one of them. */
export async function showTaskLog (shell: Shell, id: string, { attempt, ...flags }: LogFlags & { attempt?: string }): Promise<number> {
  const owner = `/v1/tasks/${id}`
  const isOver = (task: unknown) => isTaskEnded(task as Task)
  if (attempt === undefined) return print(shell, flags, { owner, isOver })
  if (flags.follow || flags.tail !== undefined || flags.since !== undefined) throw new BerthError('invalid_argument', 'usage', '--attempt: shows all of one attempt; leave out --follow, --tail and --since')
  const { attempts } = await shell.client().request<Task>('GET', owner)
  // One that was given back without having counted has the number of the next one.
  const own = attempts.findLastIndex(({ number }) => number === parseCount(attempt, '--attempt'))
  const begin = attempts[own]?.logCursor
  if (begin === undefined) throw new BerthError('not_found', 'attempt_not_found', `${id} has ${own === -1 ? 'had' : 'written'} nothing in an attempt ${attempt}; it has come to attempt ${attempts.at(-1)?.number ?? 0}`)
  return print(shell, { ...flags, since: begin }, { owner, isOver, until: attempts.slice(own + 1).find(({ logCursor }) => logCursor !== undefined)?.logCursor })
}

interface LogPlace {
  /** Path of what writes the log. */
  owner: string
  /** Whether it will write no more. */
  isOver: (owner: unknown) => boolean
  /** Where to stop. */
  until?: string | undefined
}

async function print (shell: Shell, flags: LogFlags, { owner, isOver, until }: LogPlace): Promise<number> {
  const tail = flags.tail === undefined || flags.tail === 'all' ? undefined : parseCount(flags.tail, '--tail')
  const stream = flags.stdout === flags.stderr ? undefined : flags.stdout ? 'stdout' : 'stderr'
  const query = { cursor: flags.since, tail, stream }
  const printer = new LogPrinter({ output: shell.output, json: flags.json, timestamps: flags.timestamps })
  const client = shell.client()
  const path = `${owner}/logs`
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  const { signal } = left
  const records = flags.follow
    ? followLog(client, { path, query, isOver: async () => isOver(await client.request('GET', owner, { signal })), signal })
    : client.stream<LogRecord | LogEnd>('GET', path, { query: { ...query, format: 'ndjson' }, signal })
  for await (const record of records) {
    throwIfError(record)
    if (record.type === 'end' || (until !== undefined && isBehind(record.cursor, until))) break
    await printer.print(record)
  }
  return 0
}

/** Whether a record that ends at this cursor lies behind the place of the other: of generations, then of bytes. */
function isBehind (cursor: string, place: string): boolean {
  const [generation = 0, bytes = 0] = cursor.split(':').map(Number)
  const [otherGeneration = 0, otherBytes = 0] = place.split(':').map(Number)
  return generation === otherGeneration ? bytes > otherBytes : generation > otherGeneration
}

async function showEvents (shell: Shell, flags: EventFlags): Promise<number> {
  if (flags.since !== undefined) parseCount(flags.since, '--since')
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  const read = flags.follow ? followRecords : pastRecords
  for await (const event of read<Event>(shell.client(), { path: '/v1/events', since: flags.since, signal: left.signal })) {
    await shell.output.line(flags.json ? JSON.stringify(event) : formatEvent(event))
  }
  return 0
}

function formatEvent (event: Event): string {
  const subject = [event.taskId, event.sandboxId, event.execId].filter(Boolean).join(' ')
  const facts = Object.entries(event.data).map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`).join(' ')
  return shorten([event.at, event.type.padEnd(15), subject, facts].filter(Boolean).join('  '), Infinity)
}
