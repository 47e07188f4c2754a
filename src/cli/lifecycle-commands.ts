import { Option, type Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import type { Task } from '../schemas/task.ts'
import { isKind } from './client.ts'
import { Progress, type ProgressMode } from './progress.ts'
import { progressMode } from './sandbox-options.ts'
import { exitCodeOf } from './sandbox-text.ts'
import { forEachId, type Shell } from './shell.ts'
import { resolveSandboxId, resolveTarget } from './target-finder.ts'
import { exitCodeOfTask } from './task-text.ts'
import { endTask, removeTask, waitForTask } from './task-watch.ts'
import { parseDuration } from './units.ts'

interface Flags {
  json?: boolean
  quiet?: boolean
  progress?: ProgressMode
}

interface StopFlags extends Flags {
  time?: string
  force?: boolean
}

// Well below what proxies between us and the daemon allow for one answer.
const waitRoundMs = 25_000

type Act = (work: Promise<number>) => Promise<void>

export function addLifecycleCommands (program: Command, shell: Shell, act: Act): void {
  const add = (name: string, summary: string) => addOutputOptions(program.command(name).summary(summary).description(`${summary[0]!.toUpperCase()}${summary.slice(1)}.`).argument('<ID...>', 'id or the unique beginning of one'))
  const change = (name: string, doing: string, summary: string) => add(name, summary)
    .action((ids: string[], flags: Flags) => act(changeEach(shell, ids, flags, name, doing)))

  change('start', 'starting', 'start sandboxes that were created and not started')
  add('stop', 'stop sandboxes: SIGTERM, then SIGKILL when the time is over; or cancel tasks')
    .option('-t, --time <SECONDS>', 'how long to wait before SIGKILL (10)')
    .option('-f, --force', 'SIGKILL at once')
    .action((ids: string[], flags: StopFlags) => act(stopEach(shell, ids, flags)))
  add('kill', 'stop sandboxes at once: stop --force')
    .action((ids: string[], flags: Flags) => act(stopEach(shell, ids, { ...flags, force: true })))
  change('pause', 'pausing', 'freeze all processes of sandboxes')
  change('resume', 'resuming', 'let paused sandboxes go on')
  add('rm', 'delete sandboxes or tasks').option('-f, --force', 'also when they run')
    .action((ids: string[], flags: StopFlags) => act(removeEach(shell, ids, flags)))
  add('wait', 'wait until sandboxes or tasks have ended and print their exit codes')
    .action((ids: string[], flags: Flags) => act(waitEach(shell, ids, flags)))
}

function addOutputOptions (command: Command): Command {
  return command
    .addOption(new Option('--progress <MODE>', 'what is told on standard error').choices(['auto', 'plain', 'none']).default('auto'))
    .option('-q, --quiet', 'tell nothing beside the output')
    .option('--json', 'print one JSON object a line')
}

async function stopEach (shell: Shell, ids: string[], flags: StopFlags): Promise<number> {
  const graceMs = flags.time === undefined ? undefined : parseDuration(flags.time, '--time')
  const body = flags.force ? { force: true } : graceMs === undefined ? undefined : { graceMs }
  const progress = new Progress(shell.output, progressMode(flags))
  return forEachId(shell, ids, async given => {
    const { kind, id } = await resolveTarget(shell.client(), given)
    if (kind === 'task' && graceMs !== undefined) throw new BerthError('invalid_argument', 'usage', `-t: ${given} is a task, whose command has 10 s to end; leave it out, or end it at once with: berth kill ${given}`)
    const stopped = await progress.during<Sandbox | Task>(`stopping ${id}`, () => kind === 'task'
      ? endTask(shell.client(), id, { atOnce: flags.force })
      : shell.client().request<Sandbox>('POST', `/v1/sandboxes/${id}/stop`, { body }))
    await shell.output.line(flags.json ? JSON.stringify(stopped) : given)
  })
}

/** Posts one verb to each sandbox; prints the id as it was given, as docker does. */
async function changeEach (shell: Shell, ids: string[], flags: Flags, verb: string, doing: string): Promise<number> {
  const progress = new Progress(shell.output, progressMode(flags))
  return forEachId(shell, ids, async given => {
    const id = await resolveSandboxId(shell.client(), given)
    const sandbox = await progress.during(`${doing} ${id}`, () => shell.client().request<Sandbox>('POST', `/v1/sandboxes/${id}/${verb}`))
    await shell.output.line(flags.json ? JSON.stringify(sandbox) : given)
  })
}

async function removeEach (shell: Shell, ids: string[], flags: StopFlags): Promise<number> {
  const progress = new Progress(shell.output, progressMode(flags))
  return forEachId(shell, ids, async given => {
    const { kind, id } = await resolveTarget(shell.client(), given)
    await progress.during(`deleting ${id}`, () => kind === 'task' ? removeTask(shell.client(), id, flags) : shell.client().request('DELETE', `/v1/sandboxes/${id}`, { query: { force: flags.force } }))
      .catch(error => { throw flags.force ? error : withForceHint(error, given) })
    await shell.output.line(flags.json ? JSON.stringify({ id, removed: true }) : given)
  })
}

/** The daemon's own hint speaks of its query string. */
function withForceHint (error: unknown, given: string): unknown {
  const status = isKind(error, 'conflict') ? (error as BerthError).details?.status : undefined
  if (typeof status !== 'string') return error
  return new BerthError('conflict', 'invalid_state', `${given} is ${status}; stop it first, or delete it with: berth rm -f ${given}`, { cause: error })
}

async function waitEach (shell: Shell, ids: string[], flags: Flags): Promise<number> {
  const progress = new Progress(shell.output, progressMode(flags))
  return forEachId(shell, ids, async given => {
    const { kind, id } = await resolveTarget(shell.client(), given)
    const { exitCode, end } = await progress.during(`waiting for ${id}`, async () => {
      if (kind === 'sandbox') {
        const sandbox = await waitForEnd(shell, id)
        return { exitCode: exitCodeOf(sandbox), end: sandbox.end }
      }
      const task = await waitForTask(shell.client(), id)
      return { exitCode: exitCodeOfTask(task), end: task.end }
    })
    await shell.output.line(flags.json ? JSON.stringify({ id, exitCode, end }) : String(exitCode))
  })
}

/** Asks in rounds, so that a daemon that restarts in between is no matter. */
async function waitForEnd (shell: Shell, id: string): Promise<Sandbox> {
  for (;;) {
    try {
      return await shell.client().request<Sandbox>('GET', `/v1/sandboxes/${id}/wait`, { query: { timeoutMs: waitRoundMs, until: 'stopped' }, isPatient: true })
    } catch (error) {
      if (!isKind(error, 'timed_out')) throw error
    }
  }
}
