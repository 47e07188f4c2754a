import type { Logger } from 'pino'
import { setTimeout as delay } from 'node:timers/promises'
import { deliveryId } from '../services/tasks/delivery-id.ts'
import type { TaskQueue } from '../services/tasks/task-queue.ts'
import { boundedCall } from './bounded-call.ts'
import type { DeliveryReport } from './delivery-report.ts'
import type { DeliveryReporter } from './delivery-reporter.ts'

export interface DeliveryLeasesOptions {
  fleet: Pick<TaskQueue, 'renew'>
  /** Both of deliveries on this host. */
  abandon: (id: string) => Promise<void>
  cancel: (id: string) => Promise<void>
  reporter: Pick<DeliveryReporter, 'open' | 'find' | 'wake'>
  leaseMs: number
  callTimeoutMs: number
  backoff: { firstMs: number, maxMs: number }
  logger: Logger
}

const renewalsPerLease = 3

/** Keeps the leases of deliveries until the queue knows how they ended; ends those that are lost, and those that are to be cancelled. */
export class DeliveryLeases {
  readonly #options: DeliveryLeasesOptions
  readonly #closing = new AbortController()

  constructor (options: DeliveryLeasesOptions) {
    this.#options = options
  }

  start (): void {
    void this.#loop()
  }

  close (): void {
    this.#closing.abort()
  }

  /** The task is to be cancelled, if it is here. One that cannot be cancelled now is so with the next renewal. */
  cancelTask (taskId: string): void {
    const { reporter } = this.#options
    for (const delivery of reporter.open) if (delivery.origin.taskId === taskId) void this.#cancel(delivery)
  }

  /** Somebody else has it. What has ended here is left to its report, which the queue refuses. */
  async lost (id: string): Promise<void> {
    const { reporter, abandon, logger } = this.#options
    const delivery = reporter.find(id)
    if (!delivery || delivery.hasEnded) return
    const { taskId, fence } = delivery.claim
    logger.warn({ taskId, fence, deliveryId: id }, 'a delivery is somebody else\'s; what was begun for it is ended')
    await abandon(id)
  }

  async #loop (): Promise<void> {
    const { leaseMs, backoff, logger } = this.#options
    let failures = 0
    while (!this.#closing.signal.aborted) {
      let pauseMs = leaseMs / renewalsPerLease
      try {
        await this.#renew()
        failures = 0
      } catch (error) {
        if (this.#closing.signal.aborted) return
        if (failures === 0) logger.warn({ err: error }, 'leases of deliveries could not be renewed; it is tried again')
        pauseMs = Math.min(pauseMs, backoff.maxMs, backoff.firstMs * 2 ** Math.min(failures++, 20))
      }
      await delay(pauseMs * (0.8 + 0.2 * Math.random()), undefined, { signal: this.#closing.signal }).catch(() => {})
    }
  }

  async #renew (): Promise<void> {
    const { fleet, reporter, leaseMs, callTimeoutMs } = this.#options
    const kept = [...reporter.open].filter(({ isSettled }) => !isSettled)
    if (kept.length === 0) return
    const renewals = await boundedCall({ timeoutMs: callTimeoutMs, signal: this.#closing.signal }, 'the renewal of leases', () => fleet.renew(kept.map(({ claim }) => claim), leaseMs))
    reporter.wake()
    for (const { isHeld, isCancelRequested, ...claim } of renewals) {
      const delivery = reporter.find(deliveryId(claim))
      if (this.#closing.signal.aborted) return
      if (!delivery) continue
      if (!isHeld) await this.lost(delivery.id)
      else if (isCancelRequested) await this.#cancel(delivery)
    }
  }

  async #cancel (delivery: DeliveryReport): Promise<void> {
    const { cancel, logger } = this.#options
    if (delivery.hasEnded || delivery.record.cancelRequestedAt !== undefined) return
    await cancel(delivery.id).catch((error: unknown) => {
      logger.warn({ taskId: delivery.claim.taskId, deliveryId: delivery.id, err: error }, 'a delivery could not be cancelled; it is tried again')
    })
  }
}
