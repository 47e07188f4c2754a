import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { QueueStatus, Task } from '../schemas/task.ts'
import { addLogOptions, showTaskLog, type LogFlags } from './log-commands.ts'
import { Progress } from './progress.ts'
import { progressMode, splitOperands } from './sandbox-options.ts'
import { ownErrorCode } from './sandbox-text.ts'
import { forEachId, type Shell } from './shell.ts'
import { resolveTaskId } from './target-finder.ts'
import { submitTaskFile } from './task-batch.ts'
import { addTaskListCommand } from './task-list-command.ts'
import { addTaskOptions, toTaskCreate, type TaskFlags } from './task-options.ts'
import { formatQueue } from './queue-text.ts'
import { TaskSession } from './task-session.ts'
import { exitCodeOfTask } from './task-text.ts'
import { cancelTask, removeTask, waitForTask } from './task-watch.ts'

interface RunFlags extends TaskFlags {
  attach?: boolean
  wait?: boolean
  file?: string
}

interface Flags {
  json?: boolean
  force?: boolean
}

interface AttemptFlags extends LogFlags {
  attempt?: string
}

type Act = (work: Promise<number>) => Promise<void>

export function addTaskCommands (program: Command, shell: Shell, act: Act): void {
  const task = program.command('task').summary('queue commands and see what became of them')
    .description('Queues commands: each is run in a sandbox of its own as soon as there is room, whatever dies in between, and its sandbox is deleted at its end.')
  addRunCommand(task, shell, act)
  addTaskListCommand(task, shell, act)
  const add = (name: string, summary: string) => task.command(name).summary(summary).description(`${summary[0]!.toUpperCase()}${summary.slice(1)}.`)
    .argument('<ID...>', 'id or the unique beginning of one')
    .option('--json', 'print one JSON object a line')
  task.command('inspect').summary('show all that is known of tasks, as JSON').description('Shows all that is known of tasks, as a JSON array: attempts, timings, how they ended, how far their outputs have come.')
    .argument('<ID...>', 'id or the unique beginning of one')
    .option('--json', 'the default')
    .action((ids: string[]) => act(inspect(shell, ids)))
  addLogOptions(task.command('logs').summary('show what a task has written').description('Shows what a task has written, over all its attempts: its standard output on ours, its standard error on ours.')
    .argument('<ID>', 'id or the unique beginning of one'))
    .option('--attempt <N>', 'of one attempt only')
    .action((id: string, flags: AttemptFlags) => act(resolveTaskId(shell.client(), id).then(taskId => showTaskLog(shell, taskId, flags))))
  add('wait', 'wait until tasks have ended, print their exit codes, and end with that of the first that failed')
    .action((ids: string[], flags: Flags) => act(waitEach(shell, ids, flags)))
  add('cancel', 'cancel tasks: those that wait at once, those that run by ending their command')
    .action((ids: string[], flags: Flags) => act(changeEach(shell, ids, flags, id => cancelTask(shell.client(), id))))
  add('retry', 'queue tasks again that failed or were cancelled')
    .action((ids: string[], flags: Flags) => act(changeEach(shell, ids, flags, id => shell.client().request<Task>('POST', `/v1/tasks/${id}/retry`))))
  add('rm', 'delete tasks that have ended, with their logs').option('-f, --force', 'also when they have not: they are cancelled first')
    .action((ids: string[], flags: Flags) => act(removeEach(shell, ids, flags)))
  program.command('queue').summary('show how full the queue is, and the room of the host').description('Shows how many tasks of each pool are how far, and the room that the host has for more.')
    .option('--json', 'print JSON')
    .action((flags: Flags) => act(showQueue(shell, flags)))
}

function addRunCommand (task: Command, shell: Shell, act: Act): void {
  const run = task.command('run').summary('queue a command')
    .description('Queues a command and prints the id of its task. Without a command it runs the program of the image.')
    .argument('[IMAGE]', 'like python:3.12, ghcr.io/acme/agent@sha256:…, berth/base or oci:<layout>[:tag]; or --image').argument('[COMMAND...]', 'program and arguments')
    .usage('[options] IMAGE [COMMAND...]')
    .option('-a, --attach', 'show its output over all attempts, and end with its exit code')
    .option('--wait', 'the same')
    .option('--file <FILE>', 'queue the tasks of a file, a JSON object a line as the API takes it; - is standard input. The other options are for lines that do not say otherwise')
  addTaskOptions(run).passThroughOptions()
    .action((image: string | undefined, rest: string[], flags: RunFlags) => {
      const { env } = shell.context
      const isAttached = flags.attach || flags.wait
      if (flags.file !== undefined) {
        if (image !== undefined || isAttached) {
          throw usage(image === undefined ? '-a: follows one task; those of a file are waited for with: berth task wait' : `--file: each line has its own command; leave out '${image}'`)
        }
        const { image: common, ...others } = toTaskCreate(flags.image ?? '', [], flags, env)
        return act(submitTaskFile(shell, { path: flags.file, defaults: { ...others, ...(common !== '' && { image: common }) }, json: flags.json ?? false }))
      }
      const operands = splitOperands(run, image === undefined ? [] : [image, ...rest], flags)
      const body = toTaskCreate(operands.image, operands.argv, flags, env)
      return act(new TaskSession(shell, flags)[isAttached ? 'attach' : 'submit'](body))
    })
}

async function inspect (shell: Shell, ids: string[]): Promise<number> {
  const found: Task[] = []
  const exitCode = await forEachId(shell, ids, async given => {
    found.push(await shell.client().request<Task>('GET', `/v1/tasks/${await resolveTaskId(shell.client(), given)}`))
  })
  await shell.output.json(found)
  return exitCode
}

async function changeEach (shell: Shell, ids: string[], flags: Flags, change: (id: string) => Promise<Task>): Promise<number> {
  return forEachId(shell, ids, async given => {
    const task = await change(await resolveTaskId(shell.client(), given))
    await shell.output.line(flags.json ? JSON.stringify(task) : given)
  })
}

async function waitEach (shell: Shell, ids: string[], flags: Flags): Promise<number> {
  const progress = new Progress(shell.output, progressMode({}))
  let first = 0
  await forEachId(shell, ids, async given => {
    try {
      const id = await resolveTaskId(shell.client(), given)
      const task = await progress.during(`waiting for ${id}`, () => waitForTask(shell.client(), id))
      const exitCode = exitCodeOfTask(task)
      first ||= exitCode
      await shell.output.line(flags.json ? JSON.stringify({ id, exitCode, status: task.status, end: task.end }) : String(exitCode))
    } catch (error) {
      first ||= ownErrorCode
      throw error
    }
  })
  return first
}

async function removeEach (shell: Shell, ids: string[], flags: Flags): Promise<number> {
  return forEachId(shell, ids, async given => {
    const id = await resolveTaskId(shell.client(), given)
    await removeTask(shell.client(), id, flags)
    await shell.output.line(flags.json ? JSON.stringify({ id, removed: true }) : given)
  })
}

async function showQueue (shell: Shell, flags: Flags): Promise<number> {
  const queue = await shell.client().request<QueueStatus>('GET', '/v1/queue')
  await (flags.json ? shell.output.json(queue) : shell.output.out(formatQueue(queue)))
  return 0
}

function usage (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
