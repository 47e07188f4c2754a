export interface Size {
  cols: number
  rows: number
}

/** The size of a terminal: the last wish wins. Wishes that come more quickly than they can be fulfilled are left out, but for the last. */
export class TerminalSize {
  readonly #record: Size
  readonly #resize: (size: Size) => Promise<void>
  #resizing: Promise<void> | undefined

  /** Keeps what is wanted in `record`. */
  constructor (record: Size, resize: (size: Size) => Promise<void>) {
    this.#record = record
    this.#resize = resize
  }

  get wanted (): Size {
    const { cols, rows } = this.#record
    return { cols, rows }
  }

  /** As the pty-host has it. */
  adopt ({ cols, rows }: Size): void {
    Object.assign(this.#record, { cols, rows })
  }

  /** Resolves when the terminal has this size, or one that was wanted later. */
  async set ({ cols, rows }: Size): Promise<void> {
    Object.assign(this.#record, { cols, rows })
    // The one under way may be of an older size; the next is of the last.
    await this.#resizing?.catch(() => undefined)
    await (this.#resizing ??= this.#resize(this.wanted).finally(() => { this.#resizing = undefined }))
  }
}
