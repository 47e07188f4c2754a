import type { Output } from './command-output.ts'
import { describeMs } from './units.ts'

/** auto: on a terminal as it goes, in a pipe only what takes long. plain: one line for each step. */
export type ProgressMode = 'auto' | 'plain' | 'none'

// Quick steps never flash up on a terminal; in a pipe standard error stays the command's own unless one wonders.
const terminalDelayMs = 150
const pipeDelayMs = 2000
const tickMs = 100

/** Says on standard error what is being done, and how long it took. */
export class Progress {
  readonly #output: Output
  readonly #mode: ProgressMode

  constructor (output: Output, mode: ProgressMode) {
    this.#output = output
    this.#mode = mode
  }

  /** Whether the result of a step is worth a line. */
  get isShown (): boolean {
    return this.#mode === 'plain' || (this.#mode === 'auto' && this.#output.isTty.stderr)
  }

  /** Does the work; while it lasts the text, which may change, stands on the terminal, and is gone after it. */
  async during<T> (text: string | (() => string), work: () => Promise<T>): Promise<T> {
    if (this.#mode === 'none') return work()
    const said = typeof text === 'string' ? () => text : text
    const stop = this.#mode === 'auto' && this.#output.isTty.stderr ? this.#animate(said) : this.#announce(said)
    try {
      return await work()
    } finally {
      stop()
    }
  }

  async say (text: string): Promise<void> {
    if (this.isShown) await this.#output.err(`${this.#output.colors.dim(text)}\n`)
  }

  #animate (text: () => string): () => void {
    const startedAt = performance.now()
    let isDrawn = false
    const timer = setInterval(() => {
      const elapsedMs = performance.now() - startedAt
      if (elapsedMs < terminalDelayMs) return
      isDrawn = true
      void this.#output.err(`\r\u001b[2K${this.#output.colors.dim(`${text()} … ${describeMs(elapsedMs)}`)}`).catch(() => {})
    }, tickMs)
    return () => {
      clearInterval(timer)
      if (isDrawn) void this.#output.err('\r\u001b[2K').catch(() => {})
    }
  }

  #announce (text: () => string): () => void {
    const write = () => { void this.#output.err(`${text()} …\n`).catch(() => {}) }
    if (this.#mode === 'plain') {
      write()
      return () => {}
    }
    const timer = setTimeout(write, pipeDelayMs)
    return () => clearTimeout(timer)
  }
}
