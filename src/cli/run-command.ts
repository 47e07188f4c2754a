import { setTimeout as delay } from 'node:timers/promises'
import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { isKind, type BerthClient } from './client.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { followLog } from './log-follower.ts'
import { LogPrinter } from './log-printer.ts'
import { describePublished } from './network-text.ts'
import { BrokenPipeError } from './command-output.ts'
import { Progress } from './progress.ts'
import { pullBeforehand } from './pull-watch.ts'
import { runAtNewTerminal } from './run-terminal.ts'
import { addSandboxOptions, progressMode, splitOperands, toSandboxCreate, type SandboxFlags } from './sandbox-options.ts'
import { describeEnd, describeTimings, exitCodeOf, isEnded } from './sandbox-text.ts'
import type { Shell } from './shell.ts'
import { toTaskCreate } from './task-options.ts'
import { TaskSession } from './task-session.ts'
import { addAttachOptions } from './terminal-start.ts'

interface RunFlags extends SandboxFlags {
  rm?: boolean
  detach?: boolean
  interactive?: boolean
  tty?: boolean
  detachKeys: string
  reconnectTimeout: string
}

const endPollMs = 50
const usageLine = '[options] IMAGE [COMMAND...]'

export function addRunCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  const run = program.command('run').summary('create a sandbox, run a command in it, and end with its exit code')
    .description('Creates a sandbox, runs the command in it and ends with its exit code. Without a command it runs the program of the image; where that has none, the sandbox idles, ready for berth exec, and its id is printed. With -d it is a task: see berth task.')
    .argument('[IMAGE]', 'like python:3.12, ghcr.io/acme/agent@sha256:…, berth/base or oci:<layout>[:tag]; or --image').argument('[COMMAND...]', 'program and arguments')
    .usage(usageLine)
    .option('--rm', 'delete the sandbox when the command has ended')
    .option('-d, --detach', 'queue it as a task, and print its id when it runs; its sandbox is deleted at its end')
    .option('-i, --interactive', 'with -t: pass on what is typed (without it: see berth exec -i)')
    .option('-t, --tty', 'run the command at a terminal; the sandbox stays when it has ended, without --rm')
  addSandboxOptions(addAttachOptions(run)).passThroughOptions()
    .action((image: string | undefined, rest: string[], flags: RunFlags) => {
      const { argv, ...named } = splitOperands(run, image === undefined ? [] : [image, ...rest], flags)
      return act(runSandbox(shell, named.image, argv, flags))
    })

  const create = program.command('create').summary('create a sandbox without starting it')
    .description('Creates a sandbox and prints its id; berth start starts it.')
    .argument('[IMAGE]').argument('[COMMAND...]').usage(usageLine)
  addSandboxOptions(create).passThroughOptions()
    .action((image: string | undefined, rest: string[], flags: SandboxFlags) => {
      const { argv, ...named } = splitOperands(create, image === undefined ? [] : [image, ...rest], flags)
      return act(createSandbox(shell, named.image, argv, flags))
    })
}

/** Creates a sandbox without starting it, and prints its id. */
async function createSandbox (shell: Shell, image: string, argv: string[], flags: SandboxFlags): Promise<number> {
  const body = { ...toSandboxCreate(image, argv, flags, shell.context.env), start: false }
  const progress = new Progress(shell.output, progressMode(flags))
  await pullBeforehand(shell, image, flags, { mode: progressMode(flags), signal: new AbortController().signal })
  const sandbox = await progress.during(`creating a sandbox of ${image}`, () => shell.client().request<Sandbox>('POST', '/v1/sandboxes', { body }))
  await progress.say(`created in ${describeTimings(sandbox)}`)
  await sayPublished(progress, sandbox)
  await (flags.json ? shell.output.json(sandbox) : shell.output.line(sandbox.id))
  return 0
}

/** The host may have chosen its ports itself. */
async function sayPublished (progress: Progress, { network }: Sandbox): Promise<void> {
  for (const published of network.publish) await progress.say(`published: ${describePublished(published)}`)
}

function runSandbox (shell: Shell, image: string, argv: string[], flags: RunFlags): Promise<number> {
  if (flags.tty) return runAtNewTerminal(shell, image, argv, flags)
  if (flags.interactive) throw usage('-i: without -t run passes no standard input; start it with -d and use: berth exec -i')
  if (!flags.detach) return new AttachedRun(shell, flags).run(image, argv)
  // --rm says what a task does anyway.
  return new TaskSession(shell, flags).detach(toTaskCreate(image, argv, flags, shell.context.env))
}

/** One `berth run` that stays: follows the log from its first byte, passes interrupts on, takes the exit code home. */
class AttachedRun {
  readonly #shell: Shell
  readonly #flags: RunFlags
  readonly #client: BerthClient
  readonly #progress: Progress
  readonly #left = new AbortController()
  #sandbox: Sandbox | undefined
  #interrupts = 0
  #isPulling = false

  constructor (shell: Shell, flags: RunFlags) {
    this.#shell = shell
    this.#flags = flags
    this.#client = shell.client()
    this.#progress = new Progress(shell.output, progressMode(flags))
  }

  async run (image: string, argv: string[]): Promise<number> {
    const body = toSandboxCreate(image, argv, this.#flags, this.#shell.context.env)
    using cleanup = new DisposableStack()
    cleanup.use(watchInterrupts(this.#shell.context, (count, signal) => this.#interrupt(count, signal)))
    try {
      const { signal } = this.#left
      await this.#pullBeforehand(body.image)
      this.#sandbox = await this.#progress.during(`creating a sandbox of ${image}`, () => this.#client.request<Sandbox>('POST', '/v1/sandboxes', { body, signal }))
      await this.#progress.say(`${this.#sandbox.id} started in ${describeTimings(this.#sandbox)}`)
      await sayPublished(this.#progress, this.#sandbox)
      if (this.#interrupts > 0) this.#stop(this.#interrupts > 1)
      if (this.#sandbox.entrypoint === undefined) return await this.#leaveIdle(this.#sandbox)
      return await this.#follow(this.#sandbox.id)
    } catch (error) {
      // Its output has no reader and --rm says that nobody will ask for it later.
      if (error instanceof BrokenPipeError && this.#flags.rm) await this.#remove(true).catch(() => {})
      throw error
    }
  }

  /** Nothing is to be stopped yet, so that the first interrupt leaves. */
  async #pullBeforehand (image: string): Promise<void> {
    this.#isPulling = true
    await pullBeforehand(this.#shell, image, this.#flags, { mode: progressMode(this.#flags), signal: this.#left.signal })
    this.#isPulling = false
  }

  /** Neither the command line nor the image names a program: there is nothing to wait for. */
  async #leaveIdle (sandbox: Sandbox): Promise<number> {
    if (this.#flags.rm) {
      await this.#remove(true)
      throw usage('--rm: works while berth waits for a command, and neither you nor the image named one')
    }
    await (this.#flags.json ? this.#shell.output.json(sandbox) : this.#shell.output.line(sandbox.id))
    return 0
  }

  async #follow (id: string): Promise<number> {
    const printer = new LogPrinter({ output: this.#shell.output, json: this.#flags.json })
    const { signal } = this.#left
    const isOver = async () => {
      this.#sandbox = await this.#client.request<Sandbox>('GET', `/v1/sandboxes/${id}`, { signal })
      return isEnded(this.#sandbox)
    }
    for await (const record of followLog(this.#client, { path: `/v1/sandboxes/${id}/logs`, isOver, signal })) await printer.print(record)
    // A log that is gone early (someone else's rm) says nothing about the end.
    while (!isEnded(this.#sandbox!)) {
      if (await isOver()) break
      await delay(endPollMs, undefined, { signal })
    }
    const sandbox = this.#sandbox!
    const exitCode = exitCodeOf(sandbox)
    const reason = describeEnd(sandbox)
    if (this.#flags.json) await this.#shell.output.line(JSON.stringify({ type: 'exit', exitCode, sandbox }))
    else if (reason) await this.#shell.output.note(reason)
    if (this.#flags.rm) await this.#remove(false)
    return exitCode
  }

  async #remove (force: boolean): Promise<void> {
    if (!this.#sandbox) return
    await this.#client.request('DELETE', `/v1/sandboxes/${this.#sandbox.id}`, { query: { force: force || undefined } })
      .catch(error => { if (!isKind(error, 'not_found')) throw error })
  }

  /** First: end it gracefully. Second: kill it. Third: leave it be and go. */
  #interrupt (count: number, signal: 'SIGINT' | 'SIGTERM'): void {
    this.#interrupts = count
    const limit = this.#isPulling ? 1 : this.#sandbox ? 3 : 2
    if (count >= limit) this.#left.abort(new InterruptedError(signal))
    else if (this.#sandbox) this.#stop(count > 1)
  }

  #stop (force: boolean): void {
    const id = this.#sandbox!.id
    if (!force) void this.#progress.say(`stopping ${id}; once more kills it`).catch(() => {})
    this.#client.request('POST', `/v1/sandboxes/${id}/stop`, { body: force ? { force: true } : undefined }).catch(error => {
      // It has ended by itself meanwhile, or a forced stop overtook this one.
      if (!isKind(error, 'conflict') && !isKind(error, 'not_found')) void this.#shell.output.note(`could not stop ${id}: ${(error as Error).message}`).catch(() => {})
    })
  }
}

function usage (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
