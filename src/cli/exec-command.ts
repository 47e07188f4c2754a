import { setTimeout as delay } from 'node:timers/promises'
import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Exec, ExecCreate, ExecEvent } from '../schemas/exec.ts'
import type { SignalName } from '../schemas/wire.ts'
import { isKind } from './client.ts'
import { ConnectionError } from './connection-error.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { gather, readEnv } from './key-values.ts'
import { resolveSandboxId } from './target-finder.ts'
import { definedOnly } from './sandbox-options.ts'
import { codeOfError, ownErrorCode } from './sandbox-text.ts'
import type { Shell } from './shell.ts'
import { addAttachOptions, checkTerminal, createTerminal, parseAttachFlags, runAtTerminal, type AttachFlags } from './terminal-start.ts'
import { parseDuration } from './units.ts'

interface ExecFlags extends AttachFlags {
  env?: string[]
  envFile?: string[]
  workdir?: string
  user?: string
  detach?: boolean
  interactive?: boolean
  tty?: boolean
  timeout?: string
  json?: boolean
}

// The request carries 8 MiB of text, which is 6 MiB of bytes in base64.
const maxStdinBytes = 6 * 1024 ** 2
const signalAttempts = 20
const signalPauseMs = 50
// Each Ctrl-C is more insistent; one after the last leaves.
const interruptSignals: SignalName[] = ['SIGINT', 'SIGTERM', 'SIGKILL']

export function addExecCommand (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  const command = program.command('exec').summary('run a command in a running sandbox, and end with its exit code')
    .description('Runs a command in a running sandbox and ends with its exit code. With -it it has a terminal, which Ctrl-P Ctrl-Q leaves running: see berth attach.')
    .argument('<ID>', 'id or the unique beginning of one').argument('[COMMAND...]', 'program and arguments; with -t the user\'s shell where there is none')
    .option('-e, --env <NAME=VALUE>', 'set a variable; NAME alone takes its value from here', gather)
    .option('--env-file <FILE>', 'read variables from a file', gather)
    .option('-w, --workdir <DIR>', 'directory to start in')
    .option('-u, --user <USER>', 'user, as name, uid or uid:gid')
    .option('-d, --detach', 'print the id of the exec, or with -t of the terminal, and leave it running')
    .option('-i, --interactive', 'read standard input to its end and pass it on; with -t pass on what is typed')
    .option('-t, --tty', 'give it a terminal')
    .option('--timeout <DURATION>', 'kill it after this long, like 30s')
    .option('--json', 'print the events of the stream, one JSON object a line; with -d the exec or terminal')
  addAttachOptions(command).passThroughOptions()
    .action((id: string, argv: string[], flags: ExecFlags) => {
      if (argv.length === 0 && !flags.tty) command.error("error: missing required argument 'COMMAND'", { code: 'commander.missingArgument' })
      return act(flags.tty ? execAtTerminal(shell, id, argv, flags) : exec(shell, id, argv, flags))
    })
}

async function execAtTerminal (shell: Shell, given: string, argv: string[], flags: ExecFlags): Promise<number> {
  if (flags.timeout !== undefined) throw usage('--timeout: a terminal has none; leave out --timeout or -t')
  if (flags.json && !flags.detach) throw usage('--json: what a terminal shows is no JSON; leave out --json or -t')
  if (!flags.detach) checkTerminal(shell)
  const how = parseAttachFlags(flags)
  const input = definedOnly({ argv: argv.length > 0 ? argv : undefined, env: readEnv(flags.env, flags.envFile, shell.context.env), cwd: flags.workdir, user: flags.user })
  const sandboxId = await resolveSandboxId(shell.client(), given)
  if (!flags.detach) return (await runAtTerminal(shell, { sandboxId, input, takesInput: flags.interactive ?? false, ...how })).exitCode
  const terminal = await createTerminal(shell, sandboxId, input)
  await (flags.json ? shell.output.json(terminal) : shell.output.line(terminal.id))
  return 0
}

async function exec (shell: Shell, given: string, argv: string[], flags: ExecFlags): Promise<number> {
  if (flags.detach && flags.interactive) throw usage('-i: a detached exec has no standard input; leave out -d or -i')
  const timeoutMs = flags.timeout === undefined ? undefined : parseDuration(flags.timeout, '--timeout')
  const env = readEnv(flags.env, flags.envFile, shell.context.env)
  const id = await resolveSandboxId(shell.client(), given)
  const stdin = flags.interactive ? (await readAll(shell.context.stdin)).toString('base64') : undefined
  const body: ExecCreate = { argv, env, cwd: flags.workdir, user: flags.user, stdin, encoding: 'base64', timeoutMs, detach: flags.detach }
  const path = `/v1/sandboxes/${id}/execs`
  if (!flags.detach) return new AttachedExec(shell, path, flags.json ?? false).run(body)
  const started = await shell.client().request<Exec>('POST', path, { body })
  await (flags.json ? shell.output.json(started) : shell.output.line(started.id))
  return 0
}

async function readAll (stdin: AsyncIterable<Buffer | string>): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of stdin) {
    const buffer = Buffer.from(chunk as Buffer)
    bytes += buffer.length
    if (bytes > maxStdinBytes) throw usage('-i: standard input of more than 6 MiB does not fit into one exec; write it to a file inside in parts')
    chunks.push(buffer)
  }
  return Buffer.concat(chunks)
}

/** One exec whose output streams here while it runs; interrupts go to the process inside. */
class AttachedExec {
  readonly #shell: Shell
  readonly #path: string
  readonly #json: boolean
  readonly #left = new AbortController()
  #execId: string | undefined
  #early: SignalName[] = []

  constructor (shell: Shell, path: string, json: boolean) {
    this.#shell = shell
    this.#path = path
    this.#json = json
  }

  async run (body: ExecCreate): Promise<number> {
    using cleanup = new DisposableStack()
    cleanup.use(watchInterrupts(this.#shell.context, (count, signal) => this.#interrupt(count, signal)))
    const events = this.#shell.client().stream<ExecEvent>('POST', this.#path, {
      body: { ...body, encoding: this.#json ? 'utf8' : 'base64', stdin: this.#json ? decode(body.stdin) : body.stdin },
      signal: this.#left.signal,
    })
    try {
      for await (const event of events) {
        if (this.#json) await this.#shell.output.line(JSON.stringify(event))
        const exitCode = await this.#take(event)
        if (exitCode !== undefined) return exitCode
      }
    } catch (error) {
      const exitCode = error instanceof BerthError ? codeOfError[error.code] : undefined
      if (exitCode === undefined) throw this.#explainBreak(error)
      await this.#shell.output.note((error as BerthError).message)
      return exitCode
    }
    throw this.#explainBreak(undefined)
  }

  /** The exit code, once it is known. */
  async #take (event: ExecEvent): Promise<number | undefined> {
    switch (event.type) {
      case 'started':
        this.#execId = event.id
        for (const name of this.#early.splice(0)) this.#signal(name)
        return undefined
      case 'stdout':
      case 'stderr':
        if (this.#json) return undefined
        await this.#shell.output[event.type === 'stdout' ? 'out' : 'err'](Buffer.from(event.data, 'base64'))
        return undefined
      case 'exit':
        if (event.timedOut && !this.#json) await this.#shell.output.note('the command was killed at its timeout')
        return event.exitCode
      case 'error':
        await this.#shell.output.note(event.message)
        return codeOfError[event.code] ?? ownErrorCode
    }
  }

  /** The daemon ends the process of a client that leaves. */
  #interrupt (count: number, signal: 'SIGINT' | 'SIGTERM'): void {
    const name = signal === 'SIGTERM' && count === 1 ? 'SIGTERM' : interruptSignals[count - 1]
    if (name === undefined) this.#left.abort(new InterruptedError(signal))
    else this.#signal(name)
  }

  #signal (name: SignalName): void {
    if (this.#execId === undefined) this.#early.push(name)
    else this.#send(name).catch(error => { void this.#shell.output.note((error as Error).message).catch(() => {}) })
  }

  async #send (signal: SignalName): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#shell.client().request('POST', `${this.#path}/${this.#execId}/signal`, { body: { signal } })
      } catch (error) {
        // It has ended meanwhile.
        if (isKind(error, 'conflict') || isKind(error, 'not_found')) return
        // Its id is known a moment before its process is there.
        if (!(error instanceof BerthError) || error.code !== 'exec_not_started' || attempt === signalAttempts) throw error
        await delay(signalPauseMs)
      }
    }
  }

  #explainBreak (error: unknown): unknown {
    if (error !== undefined && !(error instanceof ConnectionError && error.stage === 'answer')) return error
    return new BerthError('unavailable', 'exec_connection_lost', 'the connection to the daemon broke while the command ran, so its exit code is unknown; a command started with -d survives that', { cause: error })
  }
}

function decode (stdin: string | undefined): string | undefined {
  return stdin === undefined ? undefined : Buffer.from(stdin, 'base64').toString('utf8')
}

function usage (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
