import { fork } from 'node:child_process'
import { once } from 'node:events'
import { randomId } from '../src/lib/id.ts'
import type { TaskSpec } from '../src/services/tasks/task-record.ts'
import type { FleetHostNews, FleetHostTask } from './fleet-host.ts'

/** Milliseconds since the task was asked for, and since it was said that it is queued. */
export interface Start {
  askedMs: number
  answeredMs: number
}

const hostProgram = new URL('./fleet-host.ts', import.meta.url).pathname
const withinMs = 10_000

/** The process of a host (fleet-host.ts), as those see it who started it. */
export class BenchHost {
  readonly #child
  readonly #begun = new Map<string, number>()
  readonly #queued = new Map<string, Start>()
  #onNews: () => void = () => {}

  private constructor (task: FleetHostTask) {
    this.#child = fork(hostProgram, [JSON.stringify(task)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.#child.on('message', (news: FleetHostNews) => {
      if (news.kind === 'begun') this.#begun.set(news.id, news.atMs)
      if (news.kind === 'queued') this.#queued.set(news.id, news)
      this.#onNews()
    })
  }

  static async start (task: FleetHostTask): Promise<BenchHost> {
    const host = new BenchHost(task)
    await once(host.#child, 'message')
    return host
  }

  /** By the clock that all processes share, when the sandbox of this delivery, or task of its own, was asked for. */
  async begun (id: string): Promise<number> {
    return await this.#take(this.#begun, id)
  }

  /** Queues a task on its own queue. */
  async startByItself (spec: TaskSpec): Promise<Start> {
    const id = randomId('tsk')
    this.#child.send({ id, spec, delayMs: 0 })
    const { askedMs, answeredMs } = await this.#take(this.#queued, id)
    const begunMs = await this.begun(id)
    return { askedMs: begunMs - askedMs, answeredMs: begunMs - answeredMs }
  }

  async close (): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = once(this.#child, 'exit')
    // It ends with its channel.
    this.#child.disconnect()
    await exited
  }

  async #take<T> (news: Map<string, T>, id: string): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    const timer = setTimeout(() => reject(new Error(`${id} was not begun within ${withinMs} ms`)), withinMs)
    this.#onNews = () => {
      const found = news.get(id)
      if (found !== undefined) resolve(found)
    }
    this.#onNews()
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      news.delete(id)
    }
  }
}
