/** A process of simulated workers, as those see it who started it. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Teardown } from '../support/test-daemon.ts'
import type { WorkerFigures } from './simulated-worker.ts'
import type { WorkersNews, WorkersTask } from './simulated-workers.ts'

const node = new URL('../../bin/node24', import.meta.url).pathname
const program = new URL('./simulated-workers.ts', import.meta.url).pathname

export class WorkersProcess {
  readonly #child: ChildProcess
  readonly #ready = Promise.withResolvers<void>()
  readonly #figures = Promise.withResolvers<WorkerFigures>()
  #onSettled: () => void = () => {}
  /** So many deliveries have been settled by it. */
  settled = 0

  /** Each stays until the end of the test, unless `finish` ends it before. */
  constructor (t: Teardown, task: WorkersTask) {
    const child = spawn(node, [program, JSON.stringify(task)], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#child = child
    const exited = new Promise<void>(resolve => { child.once('exit', () => resolve()) })
    t.after(async () => {
      child.kill('SIGKILL')
      await exited
    })
    for (const { promise } of [this.#ready, this.#figures]) promise.catch(() => {})
    child.once('exit', code => {
      const error = new Error(`a process of simulated workers ended with ${code}`)
      this.#ready.reject(error)
      this.#figures.reject(error)
    })
    createInterface({ input: child.stdout! }).on('line', line => { this.#hear(JSON.parse(line) as WorkersNews) })
  }

  get pid (): number { return this.#child.pid! }

  /** All of its workers belong to the fleet. */
  async ready (): Promise<void> {
    await this.#ready.promise
  }

  onSettled (listener: () => void): void {
    this.#onSettled = listener
  }

  /** Ends it; answers what its workers have seen. */
  async finish (): Promise<WorkerFigures> {
    this.#child.stdin!.end()
    return await this.#figures.promise
  }

  #hear (news: WorkersNews): void {
    if (news.kind === 'ready') this.#ready.resolve()
    else if (news.kind === 'figures') this.#figures.resolve(news)
    else {
      this.settled = news.count
      this.#onSettled()
    }
  }
}
