import { Command, CommanderError } from 'commander'
import { BerthError } from '../errors.ts'
import { BerthClient, defaultSocketPath } from './client.ts'
import type { CliContext, DoctorOptions, ServeOptions } from './cli-context.ts'
import { addCopyCommand } from './copy-command.ts'
import { addExecCommand } from './exec-command.ts'
import { addFileCommands } from './file-commands.ts'
import { addGatewayCommand } from './gateway-command.ts'
import { addHostCommands } from './host-commands.ts'
import { addImageCommands } from './image-commands.ts'
import { InterruptedError } from './interrupts.ts'
import { addLifecycleCommands } from './lifecycle-commands.ts'
import { addListCommands } from './list-commands.ts'
import { addLogCommands } from './log-commands.ts'
import { addNetworkCommands } from './network-commands.ts'
import { BrokenPipeError, Output } from './command-output.ts'
import { addRunCommands } from './run-command.ts'
import { ownErrorCode } from './sandbox-text.ts'
import type { Shell } from './shell.ts'
import { addTaskCommands } from './task-commands.ts'
import { addTerminalCommands } from './terminal-commands.ts'
import { addTokenCommands } from './token-commands.ts'

// 128 + SIGPIPE: what a program has that writes on into a pipe nobody reads.
const brokenPipeCode = 141

/** Runs one command line (without the program's own name) and says with which code to exit. Never throws. */
export async function runCli (argv: string[], context: CliContext): Promise<number> {
  const output = new Output(context)
  const outcome = { exitCode: 0 }
  const program = buildProgram(context, { output, outcome })
  const command = program.commands.find(one => [one.name(), ...one.aliases()].includes(argv[0] ?? ''))?.name()
  const fail = (error: unknown) => report(error, { output, context, command })
  let exitCode: number
  try {
    await program.parseAsync(argv.length > 0 ? argv : ['--help'], { from: 'user' })
    exitCode = outcome.exitCode
  } catch (error) {
    exitCode = await fail(error)
  }
  try {
    await output.flush()
  } catch (error) {
    if (exitCode === 0) exitCode = await fail(error)
  }
  return exitCode
}

/** The command line as commander holds it. What a command ends with stands in `outcome` once parsing is over. */
export function buildProgram (context: CliContext, parts: { output?: Output, outcome?: { exitCode: number } } = {}): Command {
  const output = parts.output ?? new Output(context)
  const outcome = parts.outcome ?? { exitCode: 0 }
  let client: BerthClient | undefined
  const shell: Shell = { context, output, client: () => (client ??= connect(context, output)) }
  const act = async (work: Promise<number>) => { outcome.exitCode = await work }

  // Inherited by every subcommand made after it.
  const program = new Command('berth')
    .description('A sandbox host for AI agents: gVisor sandboxes that outlive the daemon.')
    .version(context.version, '--version', 'print the version of this program')
    .helpOption('-h, --help', 'show how it is used')
    .helpCommand('help [COMMAND]', 'show how a command is used')
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: text => { void output.out(text).catch(() => {}) },
      writeErr: text => { void output.err(text).catch(() => {}) },
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      // The message is printed with the others' look when the thrown error arrives.
      outputError: () => {},
    })

  addRunCommands(program.commandsGroup('Sandboxes:'), shell, act)
  addListCommands(program, shell, act)
  addExecCommand(program, shell, act)
  addTerminalCommands(program, shell, act)
  addCopyCommand(program, shell, act)
  addFileCommands(program, shell, act)
  addLogCommands(program, shell, act)
  addNetworkCommands(program, shell, act)
  addLifecycleCommands(program, shell, act)
  addTokenCommands(program, shell, act)
  addTaskCommands(program.commandsGroup('Tasks:'), shell, act)
  addImageCommands(program.commandsGroup('Images:'), shell, act)
  addServeCommand(program.commandsGroup('Host:'), context, act)
  addGatewayCommand(program, context, act)
  addHostCommands(program, shell, act)
  program.addHelpText('after', '\nThe daemon is found by BERTH_SOCKET (default /run/berth/berth.sock), or by BERTH_URL with BERTH_TOKEN.')
  return program
}

function addServeCommand (program: Command, context: CliContext, act: (work: Promise<number>) => Promise<void>): void {
  program.command('serve').summary('run the daemon').description('Runs the daemon in the foreground. Each option is also a variable, like BERTH_STATE_DIR.')
    .option('--state-dir <DIR>', 'what must survive a reboot (/var/lib/berth)')
    .option('--run-dir <DIR>', 'sockets and runtime state (/run/berth)')
    .option('--listen <HOST:PORT>', 'where the API listens')
    .option('--socket <PATH>', 'unix socket of the API')
    .option('--gateway <HOST:PORT>', 'join the fleet of this gateway (gRPC)')
    .option('--gateway-token-file <FILE>', 'holds the token by which the gateway knows this host')
    .option('--redis <URL>', 'take tasks from the queue of a fleet')
    .option('--pool <NAME>', 'the pool of the fleet to serve (default)')
    .option('--advertise <URL>', 'where the gateway reaches this API')
    .option('--stop-sandboxes', 'stop the sandboxes when the daemon ends')
    .option('--configure-host', 'have this host forward packets, without which sandboxes reach nothing outside')
    .option('--reclaim-and-exit', 'end and remove everything that belongs to the directories, then exit')
    .action((options: ServeOptions) => act(context.serve(options)))
  program.command('doctor').summary('check what this host needs').description('Checks what this host needs, says what is missing and how to mend it, and proves the runtime with a sandbox.')
    .option('--no-self-test', 'look at the host only')
    .option('--json', 'print JSON')
    .action((options: DoctorOptions) => act(context.doctor(options)))
}

function connect (context: CliContext, output: Output): BerthClient {
  const { BERTH_URL, BERTH_SOCKET, BERTH_TOKEN } = context.env
  return new BerthClient({
    url: BERTH_URL || undefined,
    socketPath: BERTH_SOCKET || defaultSocketPath,
    token: BERTH_TOKEN || undefined,
    comeBackMs: context.comeBackMs,
    onWaiting: address => { void output.note(`the daemon at ${address} is away; waiting for it to come back`).catch(() => {}) },
  })
}

interface Circumstances {
  output: Output
  context: CliContext
  /** Of which the usage is to be shown. */
  command: string | undefined
}

/** Says what went wrong and what to do, and which exit code that is. */
async function report (error: unknown, { output, context, command }: Circumstances): Promise<number> {
  if (error instanceof InterruptedError) return error.exitCode
  if (error instanceof BrokenPipeError) return brokenPipeCode
  if (error instanceof CommanderError && error.exitCode === 0) return 0
  // Commander has shown the help that was asked for wrongly.
  if (error instanceof CommanderError && error.code === 'commander.help') return ownErrorCode
  const [message, hint] = explain(error, context, command)
  const text = `${output.colors.red('berth:')} ${message}\n${hint ? `${hint}\n` : ''}`
  await output.err(text).catch(() => {})
  return ownErrorCode
}

function explain (error: unknown, context: CliContext, command: string | undefined): [message: string, hint?: string] {
  if (error instanceof CommanderError) {
    return [error.message.replace(/^error: /, '').replace(/\n/g, ' '), `See: berth ${command ? `${command} --help` : 'help'}`]
  }
  if (!(error instanceof BerthError)) return [error instanceof Error ? error.message : String(error)]
  const requestId = error.details?.requestId
  const trace = error.kind === 'internal' && requestId ? ` (request ${requestId})` : ''
  if (error.kind !== 'unauthenticated') return [error.message + trace]
  return [error.message, context.env.BERTH_TOKEN
    ? 'The token in BERTH_TOKEN is not known to this daemon: its own lies in admin.token in its state directory.'
    : 'Set BERTH_TOKEN: the token lies in admin.token in the daemon\'s state directory (/var/lib/berth by default).']
}
