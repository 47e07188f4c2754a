import type { Sandbox } from '../schemas/sandbox.ts'
import type { Task, TaskCreate } from '../schemas/task.ts'
import type { BerthClient } from './client.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { followLog } from './log-follower.ts'
import { LogPrinter } from './log-printer.ts'
import { describePublished } from './network-text.ts'
import { Progress } from './progress.ts'
import { pullBeforehand } from './pull-watch.ts'
import { progressMode, type SandboxFlags } from './sandbox-options.ts'
import { describeTimings, ownErrorCode } from './sandbox-text.ts'
import type { Shell } from './shell.ts'
import { cancelTask, waitForTask } from './task-watch.ts'
import { describeTaskEnd, exitCodeOfTask, hasRun, isTaskEnded } from './task-text.ts'

/** One task from the command line: queued, and then watched for as long as was asked for. */
export class TaskSession {
  readonly #shell: Shell
  readonly #flags: SandboxFlags
  readonly #client: BerthClient
  readonly #progress: Progress
  readonly #left = new AbortController()
  #task: Task | undefined
  #interrupt: (signal: 'SIGINT' | 'SIGTERM', count: number) => void = () => {}

  constructor (shell: Shell, flags: SandboxFlags) {
    this.#shell = shell
    this.#flags = flags
    this.#client = shell.client()
    this.#progress = new Progress(shell.output, progressMode(flags))
  }

  /** Queues it and prints its id. */
  async submit (body: TaskCreate): Promise<number> {
    await this.#print(await this.#create(body))
    return 0
  }

  /** Queues it, waits until its command runs, and prints its id; an interrupt leaves it queued. */
  async detach (body: TaskCreate): Promise<number> {
    using cleanup = new DisposableStack()
    cleanup.use(watchInterrupts(this.#shell.context, (count, signal) => this.#interrupt(signal, count)))
    this.#interrupt = signal => this.#left.abort(new InterruptedError(signal))
    await this.#pull(body.image)
    let leaving: InterruptedError | undefined
    // What is being queued may be queued already: only a second one leaves without knowing.
    this.#interrupt = (signal, count) => {
      leaving = new InterruptedError(signal)
      if (this.#task || count > 1) this.#left.abort(leaving)
    }
    const { id } = await this.#create(body)
    if (leaving) this.#left.abort(leaving)
    try {
      const task = await this.#untilRunning(id, this.#left.signal)
      await this.#tellSandbox(task)
      await this.#print(task)
      return await this.#refusal(task)
    } catch (error) {
      if (!this.#left.signal.aborted) throw error
      await this.#shell.output.note(`${id} stays queued and will run; see it with: berth task inspect ${id}, cancel it with: berth task cancel ${id}`)
      throw leaving
    }
  }

  /** Queues it, shows its output over all attempts and takes its exit code home; the first interrupt cancels it, the second leaves. */
  async attach (body: TaskCreate): Promise<number> {
    using cleanup = new DisposableStack()
    cleanup.use(watchInterrupts(this.#shell.context, (count, signal) => this.#interrupt(signal, count)))
    this.#interrupt = signal => this.#left.abort(new InterruptedError(signal))
    await this.#pull(body.image)
    let isToCancel = false
    this.#interrupt = (signal, count) => {
      if (count > 1) this.#left.abort(new InterruptedError(signal))
      else if (this.#task) this.#cancel(this.#task.id)
      else isToCancel = true
    }
    const { id } = await this.#create(body)
    if (isToCancel) this.#cancel(id)
    await this.#progress.say(`${id} is queued`)
    await this.#tellSandbox(await this.#untilRunning(id, this.#left.signal))
    return await this.#follow(id)
  }

  async #follow (id: string): Promise<number> {
    const printer = new LogPrinter({ output: this.#shell.output, json: this.#flags.json })
    const { signal } = this.#left
    const isOver = async () => isTaskEnded(await this.#client.request<Task>('GET', `/v1/tasks/${id}`, { signal }))
    for await (const record of followLog(this.#client, { path: `/v1/tasks/${id}/logs`, isOver, signal })) await printer.print(record)
    const task = await waitForTask(this.#client, id, { signal })
    const exitCode = exitCodeOfTask(task)
    const reason = describeTaskEnd(task)
    if (this.#flags.json) await this.#shell.output.line(JSON.stringify({ type: 'exit', exitCode, task }))
    else if (reason) await this.#shell.output.note(reason)
    return exitCode
  }

  /** On a terminal a pull is shown; without one the daemon pulls when the task's turn has come. */
  async #pull (image: string): Promise<void> {
    await pullBeforehand(this.#shell, image, this.#flags, { mode: progressMode(this.#flags), signal: this.#left.signal })
  }

  async #create (body: TaskCreate): Promise<Task> {
    this.#task = await this.#progress.during(`queueing a task of ${body.image}`, () => this.#client.request<Task>('POST', '/v1/tasks', { body, signal: this.#left.signal }))
    return this.#task
  }

  #untilRunning (id: string, signal: AbortSignal): Promise<Task> {
    return this.#progress.during(`${id} waits for room, and for its sandbox`, () => waitForTask(this.#client, id, { until: 'running', signal }))
  }

  /** What its set-up took, and which ports the host has chosen. */
  async #tellSandbox (task: Task): Promise<void> {
    if (!this.#progress.isShown || task.status !== 'running' || task.sandboxId === undefined) return
    const timings = task.attempts.at(-1)?.timings
    if (timings) await this.#progress.say(`started in ${describeTimings({ timings })}`)
    if (!task.network?.publish) return
    const sandbox = await this.#client.request<Sandbox>('GET', `/v1/sandboxes/${task.sandboxId}`).catch(() => undefined)
    for (const published of sandbox?.network.publish ?? []) await this.#progress.say(`published: ${describePublished(published)}`)
  }

  /** A task that ended before its command ran is as one that could not be started; how the command ends is no matter. */
  async #refusal (task: Task): Promise<number> {
    if (!isTaskEnded(task) || hasRun(task)) return 0
    await this.#shell.output.note(describeTaskEnd(task) ?? 'the task ended before its command ran')
    return ownErrorCode
  }

  async #print (task: Task): Promise<void> {
    await (this.#flags.json ? this.#shell.output.json(task) : this.#shell.output.line(task.id))
  }

  #cancel (id: string): void {
    void this.#progress.say(`cancelling ${id}; once more leaves it to end by itself`).catch(() => {})
    cancelTask(this.#client, id).catch(error => { void this.#shell.output.note(`could not cancel ${id}: ${(error as Error).message}`).catch(() => {}) })
  }
}
