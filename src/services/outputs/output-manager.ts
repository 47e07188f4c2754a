/** All outputs of all tasks of this host. */
import type { Logger } from 'pino'
import type { OutputState } from '../../schemas/output.ts'
import type { LogReader } from '../logs/log-reader.ts'
import { DestinationGate } from './destination-gate.ts'
import type { OpenSink } from './open-sink.ts'
import { loadCheckpoints } from './output-checkpoint.ts'
import { destinationOf } from './output-settings.ts'
import { OutputShipper, defaultTimes, stateOf, type ShipperTimes } from './output-shipper.ts'
import type { OutputTask } from './output-task.ts'

export interface OutputManagerOptions {
  logs: LogReader
  logDir: (taskId: string) => string
  /** Where the checkpoints of a task's outputs lie. */
  outputsDir: (taskId: string) => string
  openSink: OpenSink
  logger: Logger
  /** All outputs of a task are complete or given up. */
  onDone: (taskId: string) => void
  times?: Partial<ShipperTimes>
}

interface Shipping {
  task: OutputTask
  shippers: OutputShipper[]
  /** Those at work, and when each is over. */
  running: Map<OutputShipper, Promise<void>>
}

/** How many outputs of one destination make up for what they have missed at once. */
const gateWidth = 16

/** Delivers the output of tasks. A task whose outputs are done costs nothing. */
export class OutputManager {
  readonly #options: OutputManagerOptions
  readonly #times: ShipperTimes
  readonly #tasks = new Map<string, Shipping>()
  readonly #gates = new Map<string, { gate: DestinationGate, users: number }>()
  #isClosed = false

  constructor (options: OutputManagerOptions) {
    this.#options = options
    this.#times = { ...defaultTimes, ...options.times }
  }

  /** Number of tasks with outputs that are not done. */
  get size (): number {
    return this.#tasks.size
  }

  /** Delivers what was not delivered yet, and what will come. Idempotent; also for a task that goes on after its end. */
  begin (task: OutputTask): void {
    if (this.#isClosed || task.outputs.length === 0) return
    const known = this.#tasks.get(task.id)
    const shipping = known ?? { task, shippers: this.#shippers(task), running: new Map() }
    this.#tasks.set(task.id, shipping)
    this.#start(shipping)
  }

  /** Something of a task has changed: its status, or that its log has ended. */
  wake (taskId: string): void {
    const shipping = this.#tasks.get(taskId)
    if (!shipping) return
    this.#start(shipping)
    for (const shipper of shipping.shippers) shipper.wake()
    this.#options.logs.wake(this.#options.logDir(taskId))
  }

  /** How far the outputs of a task have come, in their order; empty where none has begun. */
  async states (taskId: string): Promise<OutputState[]> {
    const shipping = this.#tasks.get(taskId)
    if (shipping) return shipping.shippers.map(({ state }) => state)
    return (await loadCheckpoints(this.#options.outputsDir(taskId))).map(stateOf)
  }

  /** The oldest file of a task's log that an output still needs; undefined where none does. */
  protectedGeneration (taskId: string): number | undefined {
    const needed = this.#tasks.get(taskId)?.shippers.flatMap(({ protectedGeneration }) => protectedGeneration ?? []) ?? []
    return needed.length > 0 ? Math.min(...needed) : undefined
  }

  /** Stops at once; once it resolves, nothing more is written into the directory of the task. */
  async forget (taskId: string): Promise<void> {
    const shipping = this.#tasks.get(taskId)
    if (!shipping) return
    this.#remove(shipping)
    for (const shipper of shipping.shippers) shipper.stop({ isForgotten: true })
    await Promise.all(shipping.running.values())
  }

  /** Stops all at a clean place, within a few seconds. */
  async close (): Promise<void> {
    this.#isClosed = true
    const all = [...this.#tasks.values()]
    for (const shipper of all.flatMap(({ shippers }) => shippers)) shipper.stop({ isForgotten: false })
    await Promise.all(all.flatMap(({ running }) => [...running.values()]))
  }

  #shippers (task: OutputTask): OutputShipper[] {
    const { logs, logDir, outputsDir, openSink, logger } = this.#options
    return task.outputs.map((spec, index) => new OutputShipper({
      task,
      spec,
      index,
      logs,
      openSink,
      logger,
      logDir: logDir(task.id),
      outputsDir: outputsDir(task.id),
      gate: this.#useGate(destinationOf(spec)),
      times: this.#times,
    }))
  }

  /** Sets those to work that have something to do: each output goes its own way. */
  #start (shipping: Shipping): void {
    const { shippers, running } = shipping
    for (const shipper of shippers) {
      if (running.has(shipper) || shipper.isOver) continue
      running.set(shipper, shipper.run().finally(() => {
        running.delete(shipper)
        this.#ended(shipping)
      }))
    }
  }

  #ended (shipping: Shipping): void {
    const { task, shippers, running } = shipping
    if (this.#isClosed || this.#tasks.get(task.id) !== shipping) return
    // What came just as the last one ended.
    this.#start(shipping)
    if (running.size > 0 || !task.isEnded() || !shippers.every(({ isOver }) => isOver)) return
    this.#remove(shipping)
    this.#options.onDone(task.id)
  }

  #remove ({ task }: Shipping): void {
    this.#tasks.delete(task.id)
    for (const spec of task.outputs) {
      const name = destinationOf(spec)
      const gate = this.#gates.get(name)
      if (gate && --gate.users === 0) this.#gates.delete(name)
    }
  }

  #useGate (destination: string): DestinationGate {
    const known = this.#gates.get(destination) ?? { gate: new DestinationGate({ backoff: this.#times.backoff, width: gateWidth }), users: 0 }
    known.users++
    this.#gates.set(destination, known)
    return known.gate
  }
}
