import { BerthError } from '../../../errors.ts'
import { inputWindowBytes } from './pty-protocol.ts'

// The kernel does not say when a program has read. It looks again after each output, which most often comes of input.
const firstRetryMs = 1
const lastRetryMs = 50

export interface InputQueueOptions {
  /** Answers how many of the bytes were taken; none while the program does not read. */
  write: (bytes: Buffer) => number
  /** So many bytes of this sender's have been taken. */
  onTaken: (sender: object, bytes: number) => void
}

/** Input on its way to a program that may not read it: at most `inputWindowBytes` of each sender, and of all earlier ones together. */
export class InputQueue {
  readonly #options: InputQueueOptions
  #entries: { sender: object, bytes: Buffer }[] = []
  #retry: NodeJS.Timeout | undefined
  #retryMs = firstRetryMs

  constructor (options: InputQueueOptions) {
    this.#options = options
  }

  /** @throws BerthError `input_window_exceeded` when more is under way than the protocol allows */
  add (sender: object, bytes: Buffer): void {
    if (this.#bytesOf(entry => entry.sender === sender) + bytes.length > inputWindowBytes) {
      throw new BerthError('invalid_argument', 'input_window_exceeded', `more than ${inputWindowBytes} bytes of input are under way to one terminal; wait for \`taken\``)
    }
    if (this.#bytesOf(entry => entry.sender !== sender) > inputWindowBytes) this.#entries = this.#entries.filter(entry => entry.sender === sender)
    this.#entries.push({ sender, bytes })
    if (this.#entries.length === 1) this.pump()
  }

  /** Writes what can be written. */
  pump (): void {
    if (this.#entries.length === 0) return
    clearTimeout(this.#retry)
    this.#retry = undefined
    const taken = new Map<object, number>()
    let hasProgress = false
    for (let [entry] = this.#entries; entry; [entry] = this.#entries) {
      const written = this.#options.write(entry.bytes)
      hasProgress ||= written > 0
      taken.set(entry.sender, (taken.get(entry.sender) ?? 0) + written)
      if (written === entry.bytes.length) this.#entries.shift()
      else entry.bytes = entry.bytes.subarray(written)
      if (written === 0) break
    }
    this.#retryMs = hasProgress ? firstRetryMs : Math.min(lastRetryMs, this.#retryMs * 2)
    if (this.#entries.length > 0) this.#retry = setTimeout(() => this.pump(), this.#retryMs)
    for (const [sender, bytes] of taken) if (bytes > 0) this.#options.onTaken(sender, bytes)
  }

  #bytesOf (has: (entry: { sender: object }) => boolean): number {
    return this.#entries.reduce((sum, entry) => has(entry) ? sum + entry.bytes.length : sum, 0)
  }
}
