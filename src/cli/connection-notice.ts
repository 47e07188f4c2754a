import type { Output } from './command-output.ts'

export interface NoticeOptions {
  output: Output
  /** Whether a program has the terminal: then it is drawn over its last line, and taken away again. */
  isRaw: () => boolean
}

// A daemon that restarts is back before anybody need be told.
const delayMs = 1000

/** Tells on standard error that the connection is lost, while it is. */
export class ConnectionNotice {
  readonly #output: Output
  readonly #isRaw: () => boolean
  #timer: NodeJS.Timeout | undefined
  #isDrawn = false

  constructor ({ output, isRaw }: NoticeOptions) {
    this.#output = output
    this.#isRaw = isRaw
  }

  lost (text: string): void {
    this.#timer ??= setTimeout(() => this.#show(text), delayMs)
  }

  /** Answers whether something of the screen was drawn over. */
  back (): boolean {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const wasDrawn = this.#isDrawn
    this.#isDrawn = false
    if (wasDrawn) this.#write('\u001b7\u001b[999;1H\u001b[2K\u001b8')
    return wasDrawn
  }

  #show (text: string): void {
    if (!this.#isRaw() || !this.#output.isTty.stderr) {
      this.#output.note(text).catch(() => {})
      return
    }
    this.#isDrawn = true
    const shown = `berth: ${text}`.slice(0, Math.max(0, this.#output.terminalSize.columns - 1))
    this.#write(`\u001b7\u001b[999;1H\u001b[0;7m${shown}\u001b[0m\u001b[K\u001b8`)
  }

  #write (text: string): void {
    this.#output.err(text).catch(() => {})
  }
}
