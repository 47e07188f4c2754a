import { BerthError } from '../errors.ts'

/** Those of docker. */
export const defaultDetachKeys = 'ctrl-p,ctrl-q'

// Long enough for two strokes of one hand; short enough that a Ctrl-P meant for the program inside is not taken for lost.
const pauseMs = 1000

/**
 * Bytes of keys in docker's way of writing them: `ctrl-p,ctrl-q`, `ctrl-a,d`.
 *
 * @throws BerthError invalid_argument `usage`.
 */
export function parseDetachKeys (text: string): Buffer {
  return Buffer.from(text.split(',').map(key => {
    const control = /^ctrl-([a-z@[\\\]^_])$/i.exec(key)?.[1]
    if (control !== undefined) return control.toUpperCase().charCodeAt(0) & 0x1f
    if (/^[\x20-\x7e]$/.test(key)) return key.charCodeAt(0)
    throw new BerthError('invalid_argument', 'usage', `--detach-keys: '${key}' is not a key; write them like ctrl-p,ctrl-q or ctrl-a,d`)
  }))
}

export interface DetachKeysOptions {
  keys: Buffer
  /** Input that is not the keys, in order. */
  onInput: (bytes: Buffer) => void
  /** The keys were pressed, one behind the other. Nothing is passed on after that. */
  onDetach: () => void
}

/** Looks for the detach keys in what is typed. Their first ones are held back until it is clear that the others do not follow. */
export class DetachKeys {
  readonly #options: DetachKeysOptions
  #matched = 0
  #isOver = false
  #timer: NodeJS.Timeout | undefined

  constructor (options: DetachKeysOptions) {
    this.#options = options
  }

  take (bytes: Buffer): void {
    if (this.#isOver) return
    clearTimeout(this.#timer)
    const { keys } = this.#options
    const passed: number[] = []
    for (const byte of bytes) {
      while (this.#matched > 0 && byte !== keys[this.#matched]) passed.push(...this.#shorten())
      if (byte !== keys[this.#matched]) passed.push(byte)
      else if (++this.#matched === keys.length) {
        this.#isOver = true
        this.#pass(passed)
        this.#options.onDetach()
        return
      }
    }
    this.#pass(passed)
    if (this.#matched > 0) this.#timer = setTimeout(() => this.#giveUp(), pauseMs)
  }

  close (): void {
    this.#isOver = true
    clearTimeout(this.#timer)
  }

  /** What is held can be the beginning of the keys from a later byte on only; the bytes before that. */
  #shorten (): Buffer {
    const held = this.#options.keys.subarray(0, this.#matched)
    let from = 1
    while (from < held.length && !held.subarray(from).equals(held.subarray(0, held.length - from))) from++
    this.#matched = held.length - from
    return held.subarray(0, from)
  }

  #giveUp (): void {
    const held = this.#options.keys.subarray(0, this.#matched)
    this.#matched = 0
    this.#pass([...held])
  }

  #pass (bytes: number[]): void {
    if (bytes.length > 0) this.#options.onInput(Buffer.from(bytes))
  }
}
