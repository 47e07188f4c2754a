import { ChangeSignal } from '../../lib/change-signal.ts'
import type { FleetTaskTable } from '../../services/fleet-queue/fleet-queue-types.ts'

/** Tells when a task may have changed. `version` is looked at before the task is: what changes in between ends the wait at once. */
export class FleetTaskWatch {
  readonly #changes = new ChangeSignal()
  readonly #stop: () => void
  #version = 0

  constructor (table: Pick<FleetTaskTable, 'watch'>, taskId: string) {
    this.#stop = table.watch(taskId, this.wake)
  }

  get version (): number { return this.#version }

  /** Something else has changed than the task. */
  readonly wake = (): void => {
    this.#version++
    this.#changes.notify()
  }

  /** Until something has changed since that version, or the signal is aborted; never fails. */
  async changed (since: number, signal: AbortSignal): Promise<void> {
    while (this.#version === since && !signal.aborted) await this.#changes.wait(signal)
  }

  close (): void {
    this.#stop()
  }
}
