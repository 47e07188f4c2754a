import type { Logger } from 'pino'
import type { ServedLayer } from './served-layer.ts'

export interface LayerFillingOptions {
  /** How long after the last start of a sandbox the filling begins, in milliseconds. */
  delayMs: number
  logger: Logger
  /** A layer that is to be completed, if there is one. */
  next: () => ServedLayer | undefined
}

const progressEveryMs = 200

/** Completes lazy layers: one at a time when no sandbox starts, or at once for whoever waits for it. */
export class LayerFilling {
  readonly #options: LayerFillingOptions
  readonly #closing = new AbortController()
  readonly #fills = new Map<string, { done: Promise<void>, isWanted: boolean, ending: AbortController }>()
  #timer: NodeJS.Timeout | undefined
  #quietUntilMs = 0

  constructor (options: LayerFillingOptions) {
    this.#options = options
  }

  /** Fills when no sandbox has started for a while; a call puts it off. */
  schedule (): void {
    const { delayMs } = this.#options
    this.#quietUntilMs = performance.now() + delayMs
    clearTimeout(this.#timer)
    if (!this.#closing.signal.aborted) this.#timer = setTimeout(() => void this.#fillAll(), delayMs).unref()
  }

  /** Completes a layer at once, and says how far it is. */
  async complete (served: ServedLayer, onProgress: () => void): Promise<void> {
    const timer = setInterval(onProgress, progressEveryMs)
    try {
      await this.#fill(served, true)
    } finally {
      clearInterval(timer)
    }
  }

  /** Ends the filling of a layer that is to be removed. */
  abandon (digest: string): void {
    this.#fills.get(digest)?.ending.abort(new Error('the layer is removed'))
  }

  close (): void {
    clearTimeout(this.#timer)
    this.#closing.abort(new Error('the image server ends'))
  }

  async #fillAll (): Promise<void> {
    const failed = new Set<ServedLayer>()
    for (let served = this.#options.next(); served && !failed.has(served); served = this.#options.next()) {
      try {
        await this.#fill(served, false)
      } catch (error) {
        if (this.#closing.signal.aborted) return
        failed.add(served)
        this.#options.logger.warn({ err: error, layerDigest: served.descriptor.digest }, 'a layer could not be completed')
      }
    }
    // A full disk may have room again.
    if (failed.size > 0) this.schedule()
  }

  #fill (served: ServedLayer, isWanted: boolean): Promise<void> {
    const { digest } = served.descriptor
    const { lazy } = served
    if (!lazy || served.isComplete) return Promise.resolve()
    const running = this.#fills.get(digest)
    if (running) {
      running.isWanted ||= isWanted
      return running.done
    }
    const ending = new AbortController()
    const fill = { done: Promise.resolve(), isWanted, ending }
    const isIdle = () => fill.isWanted || performance.now() >= this.#quietUntilMs
    fill.done = lazy.fill({ signal: AbortSignal.any([ending.signal, this.#closing.signal]), isIdle }).finally(() => this.#fills.delete(digest))
    this.#fills.set(digest, fill)
    return fill.done
  }
}
