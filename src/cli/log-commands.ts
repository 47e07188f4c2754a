import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Event } from '../schemas/event.ts'
import type { Exec } from '../schemas/exec.ts'
import type { LogRecord } from '../schemas/log.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { throwIfError } from './client.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { followLog } from './log-follower.ts'
import { LogPrinter } from './log-printer.ts'
import { resolveSandboxId } from './sandbox-finder.ts'
import { isEnded } from './sandbox-text.ts'
import { followRecords, pastRecords } from './seq-follower.ts'
import type { Shell } from './shell.ts'
import { shorten } from './table.ts'
import { parseCount } from './units.ts'

interface LogFlags {
  follow?: boolean
  tail?: string
  timestamps?: boolean
  since?: string
  stdout?: boolean
  stderr?: boolean
  exec?: string
  json?: boolean
}

interface EventFlags {
  follow?: boolean
  since?: string
  json?: boolean
}

export function addLogCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  program.command('logs').summary('show what a sandbox has written').description('Shows what a sandbox has written: its standard output on ours, its standard error on ours.')
    .argument('<ID>', 'id or the unique beginning of one')
    .option('-f, --follow', 'go on as it writes more, until it ends')
    .option('-n, --tail <N>', 'only the last lines')
    .option('-t, --timestamps', 'put the time before each line')
    .option('--since <CURSOR>', 'read on behind a record of --json')
    .option('--stdout', 'standard output only').option('--stderr', 'standard error only')
    .option('--exec <EXEC-ID>', 'the log of a detached exec')
    .option('--json', 'print the records, one JSON object a line')
    .action((id: string, flags: LogFlags) => act(showLog(shell, id, flags)))
  program.command('events').summary('show what has happened on the host').description('Shows what has happened to sandboxes and execs on the host; with -f what happens from this moment on.')
    .option('-f, --follow', 'what happens from this moment on')
    .option('--since <SEQ>', 'read on behind this event')
    .option('--json', 'print the events, one JSON object a line')
    .action((flags: EventFlags) => act(showEvents(shell, flags)))
}

async function showLog (shell: Shell, given: string, flags: LogFlags): Promise<number> {
  const tail = flags.tail === undefined || flags.tail === 'all' ? undefined : parseCount(flags.tail, '--tail')
  if (flags.exec !== undefined && !/^exe_[a-z0-9]{20}$/.test(flags.exec)) throw new BerthError('invalid_argument', 'usage', `--exec: '${flags.exec}' is not the id of an exec; berth exec -d prints it`)
  const client = shell.client()
  const sandboxPath = `/v1/sandboxes/${await resolveSandboxId(client, given)}`
  const path = `${flags.exec ? `${sandboxPath}/execs/${flags.exec}` : sandboxPath}/logs`
  const stream = flags.stdout === flags.stderr ? undefined : flags.stdout ? 'stdout' : 'stderr'
  const query = { cursor: flags.since, tail, stream }
  const printer = new LogPrinter({ output: shell.output, json: flags.json, timestamps: flags.timestamps })
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  const { signal } = left
  const isOver = async () => flags.exec
    ? !['starting', 'running'].includes((await client.request<Exec>('GET', `${sandboxPath}/execs/${flags.exec}`, { signal })).status)
    : isEnded(await client.request<Sandbox>('GET', sandboxPath, { signal }))
  const records = flags.follow
    ? followLog(client, { path, query, isOver, signal })
    : client.stream<LogRecord>('GET', path, { query: { ...query, format: 'ndjson' }, signal })
  for await (const record of records) await printer.print(throwIfError(record))
  return 0
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
  const subject = [event.sandboxId, event.execId].filter(Boolean).join(' ')
  const facts = Object.entries(event.data).map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`).join(' ')
  return shorten([event.at, event.type.padEnd(15), subject, facts].filter(Boolean).join('  '), Infinity)
}
