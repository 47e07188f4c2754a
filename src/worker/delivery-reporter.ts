import { ChangeSignal } from '../lib/change-signal.ts'
import type { TaskRecord } from '../services/tasks/task-record.ts'
import { DeliveryReport, type DeliveryReportParts } from './delivery-report.ts'
import { ReportLane } from './report-lane.ts'

export interface DeliveryReporterOptions extends Omit<DeliveryReportParts, 'fleetLane' | 'gatewayLane' | 'onChange'> {
  /** The status of a delivery has changed. */
  onMoved?: () => void
  /** A call that takes longer counts as failed, and is made again; 10 s without it. */
  callTimeoutMs?: number
  backoff?: { firstMs: number, maxMs: number }
}

const usualCallTimeoutMs = 10_000
const usualBackoff = { firstMs: 200, maxMs: 30_000 }
/** Calls at once. A queue answers in order over one connection; more of them only wait there. */
const fleetWidth = 16
const gatewayWidth = 4

/**
 * Tells a fleet of the deliveries of this host: each in order and to its end, however long who is to be told is away. All that it needs
 * to go on is in the local queue.
 */
export class DeliveryReporter {
  readonly #options: DeliveryReporterOptions
  readonly #open = new Map<string, DeliveryReport>()
  readonly #lanes: { fleet: ReportLane, gateway: ReportLane }
  readonly #closing = new AbortController()
  readonly #changed = new ChangeSignal()

  constructor (options: DeliveryReporterOptions) {
    const { callTimeoutMs = usualCallTimeoutMs, backoff = usualBackoff, logger } = options
    this.#options = options
    this.#lanes = {
      fleet: new ReportLane({ target: 'queue', width: fleetWidth, callTimeoutMs, backoff, logger }),
      gateway: new ReportLane({ target: 'gateway', width: gatewayWidth, callTimeoutMs, backoff, logger }),
    }
  }

  /** Those of which there is something left to tell. */
  get open (): Iterable<DeliveryReport> { return this.#open.values() }

  find (id: string): DeliveryReport | undefined {
    return this.#open.get(id)
  }

  /** Reports this delivery from where it is; again is fine. */
  follow (record: TaskRecord): void {
    if (this.#open.has(record.id) || this.#closing.signal.aborted) return
    const delivery = new DeliveryReport(record, {
      ...this.#options,
      fleetLane: this.#lanes.fleet,
      gatewayLane: this.#lanes.gateway,
      onChange: hasMoved => {
        if (hasMoved) this.#options.onMoved?.()
        this.#changed.notify()
      },
      closing: this.#closing.signal,
    })
    this.#open.set(record.id, delivery)
    void delivery.run().finally(() => {
      this.#open.delete(record.id)
      this.#changed.notify()
    })
  }

  /** The queue of the fleet has answered somebody. */
  wake (): void {
    this.#lanes.fleet.wake()
  }

  /** Whether the queue was told within the time of all deliveries that have ended. */
  async flush (timeoutMs: number): Promise<boolean> {
    const isTold = () => [...this.open].every(({ hasEnded, isSettled }) => !hasEnded || isSettled)
    const giveUp = new AbortController()
    const timer = setTimeout(() => giveUp.abort(), timeoutMs)
    try {
      while (!isTold() && !giveUp.signal.aborted) await this.#changed.wait(giveUp.signal)
      return isTold()
    } finally {
      clearTimeout(timer)
    }
  }

  /** Says nothing more, and touches nothing: the next daemon goes on. */
  close (): void {
    this.#closing.abort()
    this.#lanes.fleet.close()
    this.#lanes.gateway.close()
    this.#changed.notify()
  }
}
