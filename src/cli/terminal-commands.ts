import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Terminal, TerminalCreate } from '../schemas/terminal.ts'
import { InterruptedError } from './interrupts.ts'
import { gather, readEnv } from './key-values.ts'
import { definedOnly, maybe } from './sandbox-options.ts'
import { forEachId, type Shell } from './shell.ts'
import { resolveSandboxId } from './target-finder.ts'
import { listTerminals, onlyRunningTerminalId, resolveTerminalId } from './terminal-finder.ts'
import { runTerminalSession } from './terminal-session.ts'
import { addAttachOptions, createTerminal, deleteTerminal, parseAttachFlags, tellEnd, type AttachFlags } from './terminal-start.ts'
import { formatTerminals } from './terminal-text.ts'
import { parseCount, parseDuration } from './units.ts'

interface AttachCommandFlags extends AttachFlags {
  readOnly?: boolean
  stdin: boolean
}

interface ListFlags {
  quiet?: boolean
  json?: boolean
}

interface NewFlags {
  name?: string
  env?: string[]
  envFile?: string[]
  workdir?: string
  user?: string
  size?: string
  idleTimeout?: string
  json?: boolean
}

const idHelp = 'id or the unique beginning of one'
const terminalHelp = 'id, the unique beginning of one, or name'

export function addTerminalCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  addAttachOptions(program.command('attach').summary('come back to a terminal of a sandbox')
    .description('Shows a terminal of a sandbox as it is, and takes what is typed to it; ends with the exit code of its program. Ctrl-P Ctrl-Q leaves it running.')
    .argument('<ID>', idHelp).argument('[TERMINAL]', `${terminalHelp}; without it the only one that runs`)
    .option('--read-only', 'look only; Ctrl-C leaves')
    .option('--no-stdin', 'take nothing from standard input; Ctrl-C leaves'))
    .action((id: string, terminal: string | undefined, flags: AttachCommandFlags) => act(attach(shell, id, terminal, flags)))

  const terminal = program.command('terminal').alias('term').summary('list, open, rename and delete terminals of a sandbox')
    .description('Terminals of a sandbox: programs at a screen that is kept, whether anybody looks at it or not.')
  terminal.command('ls').alias('list').summary('list the terminals of a sandbox').description('Lists the terminals of a sandbox, the newest first.')
    .argument('<ID>', idHelp)
    .option('-q, --quiet', 'ids only')
    .option('--json', 'print a JSON array')
    .action((id: string, flags: ListFlags) => act(list(shell, id, flags)))
  terminal.command('new').alias('create').summary('open a terminal and print its id').description('Opens a terminal without attaching to it, and prints its id. Without a command it is the shell of the user.')
    .argument('<ID>', idHelp).argument('[COMMAND...]', 'program and arguments')
    .option('--name <NAME>', 'what to call it')
    .option('-e, --env <NAME=VALUE>', 'set a variable; NAME alone takes its value from here', gather)
    .option('--env-file <FILE>', 'read variables from a file', gather)
    .option('-w, --workdir <DIR>', 'directory to start in')
    .option('-u, --user <USER>', 'user, as name, uid or uid:gid')
    .option('--size <COLSxROWS>', 'like 120x40; that of the terminal here, or 80x24')
    .option('--idle-timeout <DURATION>', 'end it after this long without a viewer, input and output')
    .option('--json', 'print JSON')
    .passThroughOptions()
    .action((id: string, argv: string[], flags: NewFlags) => act(open(shell, id, argv, flags)))
  terminal.command('rename').summary('call a terminal otherwise').description('Calls a terminal otherwise.')
    .argument('<ID>', idHelp).argument('<TERMINAL>', terminalHelp).argument('<NAME>', 'what to call it')
    .option('--json', 'print JSON')
    .action((id: string, given: string, name: string, flags: { json?: boolean }) => act(rename(shell, id, given, name, flags)))
  terminal.command('rm').alias('delete').summary('end terminals and forget them').description('Ends terminals and forgets them with all that they wrote. Their programs get SIGHUP, then SIGKILL.')
    .argument('<ID>', idHelp).argument('<TERMINAL...>', terminalHelp)
    .option('--json', 'print one JSON object a line')
    .action((id: string, given: string[], flags: { json?: boolean }) => act(remove(shell, id, given, flags)))
}

async function attach (shell: Shell, given: string, wanted: string | undefined, flags: AttachCommandFlags): Promise<number> {
  const how = parseAttachFlags(flags)
  const sandboxId = await resolveSandboxId(shell.client(), given)
  const id = wanted === undefined ? await onlyRunningTerminalId(shell, sandboxId) : await resolveTerminalId(shell.client(), sandboxId, wanted)
  const takesInput = flags.stdin
  try {
    const end = await runTerminalSession(shell, { sandboxId, terminalId: id, role: flags.readOnly ? 'read' : 'write', takesInput, ...how })
    return await tellEnd(shell, { sandboxId, id }, end)
  } catch (error) {
    if (error instanceof InterruptedError) await tellEnd(shell, { sandboxId, id }, { type: 'detached' }).catch(() => {})
    throw error
  }
}

async function list (shell: Shell, given: string, flags: ListFlags): Promise<number> {
  const sandboxId = await resolveSandboxId(shell.client(), given)
  const found = await listTerminals(shell.client(), sandboxId)
  if (flags.json) await shell.output.json(found)
  else await shell.output.out(flags.quiet ? found.map(({ id }) => `${id}\n`).join('') : formatTerminals(found))
  return 0
}

async function open (shell: Shell, given: string, argv: string[], flags: NewFlags): Promise<number> {
  const input: Partial<TerminalCreate> = definedOnly({
    argv: argv.length > 0 ? argv : undefined,
    name: flags.name,
    env: readEnv(flags.env, flags.envFile, shell.context.env),
    cwd: flags.workdir,
    user: flags.user,
    idleTimeoutMs: maybe(flags.idleTimeout, text => parseDuration(text, '--idle-timeout')),
    ...maybe(flags.size, parseSize),
  })
  const sandboxId = await resolveSandboxId(shell.client(), given)
  const terminal = await createTerminal(shell, sandboxId, input)
  await (flags.json ? shell.output.json(terminal) : shell.output.line(terminal.id))
  return 0
}

function parseSize (text: string): { cols: number, rows: number } {
  const [, cols, rows] = /^(\d+)x(\d+)$/i.exec(text) ?? []
  if (cols === undefined || rows === undefined) throw new BerthError('invalid_argument', 'usage', `--size: '${text}' is not a size; write it like 120x40`)
  return { cols: parseCount(cols, '--size'), rows: parseCount(rows, '--size') }
}

async function rename (shell: Shell, given: string, wanted: string, name: string, flags: { json?: boolean }): Promise<number> {
  const sandboxId = await resolveSandboxId(shell.client(), given)
  const id = await resolveTerminalId(shell.client(), sandboxId, wanted)
  const terminal = await shell.client().request<Terminal>('PATCH', `/v1/sandboxes/${sandboxId}/terminals/${id}`, { body: { name } })
  await (flags.json ? shell.output.json(terminal) : shell.output.line(id))
  return 0
}

async function remove (shell: Shell, given: string, wanted: string[], flags: { json?: boolean }): Promise<number> {
  const sandboxId = await resolveSandboxId(shell.client(), given)
  return await forEachId(shell, wanted, async one => {
    const id = await resolveTerminalId(shell.client(), sandboxId, one)
    await deleteTerminal(shell, { sandboxId, id })
    await shell.output.line(flags.json ? JSON.stringify({ id, deleted: true }) : id)
  })
}
