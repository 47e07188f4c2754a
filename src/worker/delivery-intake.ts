import type { Logger } from 'pino'
import { BerthError } from '../errors.ts'
import type { OutputSpec } from '../schemas/output.ts'
import type { TaskEnd } from '../schemas/task.ts'
import { deliveryId } from '../services/tasks/delivery-id.ts'
import type { TaskDeliveries } from '../services/tasks/task-deliveries.ts'
import { verdictOfRefusal } from '../services/tasks/task-outcome.ts'
import type { Claim, TaskQueue } from '../services/tasks/task-queue.ts'
import type { NewTask, TaskRecord, TaskSpec } from '../services/tasks/task-record.ts'
import type { DeliveryReporter } from './delivery-reporter.ts'

export interface DeliveryIntakeOptions {
  fleet: Pick<TaskQueue, 'release'>
  local: Pick<TaskDeliveries, 'get' | 'take' | 'tellAgain'> & Pick<TaskQueue, 'cancel'>
  reporter: Pick<DeliveryReporter, 'find' | 'follow'>
  /** Throws a BerthError for what this host cannot run, as it would refuse the same task from a client. */
  beforePush?: ((spec: TaskSpec) => void | Promise<void>) | undefined
  /** Where output goes of tasks that do not say, beside the fleet. */
  defaultOutputs?: readonly OutputSpec[] | undefined
  onChange: (delivery: TaskRecord) => void
  logger: Logger
}

/** Where a claim comes from: it was just made, or the queue says that this host has it. */
export interface ClaimOrigin {
  /** Give back what is not queued on this host yet. */
  isUnwanted: boolean
  /** Deliveries that were still to be reported when the queue was asked what this host has. */
  openBefore?: ReadonlySet<string>
}

/** How long others of the fleet, and this host, leave alone what could not be queued here, in milliseconds. */
const returnPauseMs = 5000

/** Queues claims of a fleet's tasks on this host, each once, whatever came of an earlier attempt at it. */
export class DeliveryIntake {
  readonly #options: DeliveryIntakeOptions

  constructor (options: DeliveryIntakeOptions) {
    this.#options = options
  }

  /** Rejects where the fleet's queue could not be told; the claim is then still this host's, and is to be taken in again. */
  async take (claim: Claim, { isUnwanted, openBefore }: ClaimOrigin): Promise<void> {
    const { local, reporter } = this.#options
    const id = deliveryId(claim)
    const open = reporter.find(id)
    const known = open?.record ?? local.get(id)
    if (known === undefined) {
      if (isUnwanted) await this.#release(claim, { delayMs: 0, isFault: false, message: 'the host is drained' })
      else await this.#queue(claim, id)
    } else if (known.report === 'abandoned') {
      await this.#release(claim, { delayMs: 0, isFault: false, message: 'this delivery was somebody else\'s for a while' })
    } else if (open === undefined || open.isSettled) {
      // What was told while the queue was answering is no news; what it was told before, it has forgotten.
      if (openBefore?.has(id) === true) return
      if (open) void open.settleAgain()
      else await this.#again(id)
    }
  }

  async #again (id: string): Promise<void> {
    const { local, reporter, logger } = this.#options
    const record = await local.tellAgain(id)
    if (record === undefined) return
    logger.warn({ deliveryId: id }, 'the fleet has forgotten what it was told of a delivery; it is told again')
    reporter.follow(record)
  }

  async #queue (claim: Claim, id: string): Promise<void> {
    const { local, reporter, onChange, logger } = this.#options
    const { taskId, fence, task } = claim
    const verdict = await this.#refusalOf(task.spec)
    if (verdict?.verdict === 'release') {
      await this.#release(claim, verdict)
      return
    }
    const refusal = verdict?.outcome.end
    try {
      const record = await local.take({ id, delayMs: 0, spec: specOfDelivery(claim, refusal, this.#options.defaultOutputs ?? []) }, refusal)
      logger.info({ taskId, fence, deliveryId: id, ...refusal && { end: refusal } }, refusal ? 'a task of the fleet cannot be run here' : 'a task of the fleet was taken')
      onChange(record)
      reporter.follow(record)
    } catch (error) {
      logger.error({ taskId, fence, err: error }, 'a task of the fleet could not be queued here; it is given back')
      await this.#release(claim, { delayMs: returnPauseMs, isFault: true, message: 'the host could not queue it' })
      return
    }
    if (task.cancelRequestedAt !== undefined) await local.cancel(id)
  }

  async #release (claim: Claim, options: Parameters<TaskQueue['release']>[1]): Promise<void> {
    await this.#options.fleet.release(claim, options).catch((error: unknown) => {
      if (!(error instanceof BerthError) || error.code !== 'stale_claim') throw error
    })
  }

  async #refusalOf (spec: TaskSpec) {
    try {
      await this.#options.beforePush?.(spec)
      return undefined
    } catch (error) {
      return verdictOfRefusal(error, { isCancelled: false })
    }
  }
}

/** One run of it: tries are counted by the fleet. What is refused has no outputs but the fleet's: they may be what was refused. */
function specOfDelivery ({ taskId, fence, task }: Claim, refusal: TaskEnd | undefined, defaultOutputs: readonly OutputSpec[]): NewTask['spec'] {
  const { spec, attempt } = task
  const externalId = spec.fleet?.externalId
  return {
    ...spec,
    maxAttempts: 1,
    outputs: [...refusal ? [] : spec.outputs.length > 0 ? spec.outputs : defaultOutputs, { type: 'fleet' }],
    fleet: { taskId, fence, attempt, ...externalId !== undefined && { externalId } },
  }
}
