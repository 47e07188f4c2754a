import { BerthError } from '../../errors.ts'

export interface TerminalInputOptions {
  /** So many bytes may be under way. */
  windowBytes: number
  send: (bytes: Buffer) => void
}

interface Writing {
  rest: Buffer
  /** Sent, and not taken yet. */
  underWayBytes: number
  resolve: () => void
  reject: (error: unknown) => void
}

/** One frame of input; others of the daemon's frames come between two. */
const maxPieceBytes = 64 * 1024
// A viewer waits for what it wrote before it writes more: there are hardly more of these than viewers.
const maxWaiting = 1024

/** Input of one terminal, in the order in which it came: never more under way than the window, and each writer told when its own was taken. */
export class TerminalInput {
  readonly #options: TerminalInputOptions
  readonly #writings: Writing[] = []
  #underWayBytes = 0
  #refusal: BerthError | undefined

  constructor (options: TerminalInputOptions) {
    this.#options = options
  }

  /** Resolves when the terminal has taken it. @throws what it was closed or broken with; exhausted `too_much_input`. */
  write (bytes: Buffer): Promise<void> {
    if (this.#refusal) return Promise.reject(this.#refusal)
    if (bytes.length === 0) return Promise.resolve()
    if (this.#writings.length >= maxWaiting) return Promise.reject(new BerthError('exhausted', 'too_much_input', 'the terminal takes no more input for now; wait until it has taken what was written'))
    return new Promise((resolve, reject) => {
      this.#writings.push({ rest: bytes, underWayBytes: 0, resolve, reject })
      this.#fill()
    })
  }

  /** The terminal has taken so many bytes. */
  taken (bytes: number): void {
    let left = Math.min(bytes, this.#underWayBytes)
    this.#underWayBytes -= left
    for (let first = this.#writings[0]; first && left > 0; first = this.#writings[0]) {
      const part = Math.min(left, first.underWayBytes)
      first.underWayBytes -= part
      left -= part
      if (first.underWayBytes > 0 || first.rest.length > 0) break
      this.#writings.shift()
      first.resolve()
    }
    this.#fill()
  }

  /** Nobody knows what came of what is under way: those who wrote it are told so. More may be written. */
  break (error: BerthError): void {
    this.#underWayBytes = 0
    for (const { reject } of this.#writings.splice(0)) reject(error)
  }

  /** Nothing is taken any more. */
  close (error: BerthError): void {
    this.#refusal ??= error
    this.break(error)
  }

  #fill (): void {
    for (const writing of this.#writings) {
      while (writing.rest.length > 0) {
        const room = Math.min(this.#options.windowBytes - this.#underWayBytes, maxPieceBytes)
        if (room <= 0) return
        const piece = writing.rest.subarray(0, room)
        writing.rest = writing.rest.subarray(piece.length)
        writing.underWayBytes += piece.length
        this.#underWayBytes += piece.length
        this.#options.send(piece)
      }
    }
  }
}
