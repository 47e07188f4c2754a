import { once } from 'node:events'
import type { Writable } from 'node:stream'
import pc from 'picocolors'

/** Nobody reads what is written any more: `berth logs … | head`. */
export class BrokenPipeError extends Error {
  constructor () {
    super('nobody reads the output any more')
    this.name = 'BrokenPipeError'
  }
}

export interface OutputOptions {
  stdout: Writable
  stderr: Writable
  isTty: { stdout: boolean, stderr: boolean }
  env: Readonly<Record<string, string | undefined>>
}

/** Standard output and error with back-pressure: a write ends when the reader keeps up, and fails when it has gone. */
export class Output {
  readonly #stdout: Writable
  readonly #stderr: Writable
  readonly #failures = new Map<Writable, Error>()
  readonly isTty: { stdout: boolean, stderr: boolean }
  /** Colours for standard error; plain where it is no terminal. */
  readonly colors: ReturnType<typeof pc.createColors>

  constructor (options: OutputOptions) {
    this.#stdout = options.stdout
    this.#stderr = options.stderr
    this.isTty = options.isTty
    this.colors = pc.createColors(options.isTty.stderr && !options.env.NO_COLOR && options.env.TERM !== 'dumb')
    // Without a listener a closed pipe would end the program with a stack trace.
    for (const stream of [options.stdout, options.stderr]) stream.on('error', error => this.#failures.set(stream, error))
  }

  /** Of the terminal that standard error is, in characters; what terminals have been since ever where it does not say. */
  get terminalSize (): { columns: number, rows: number } {
    const { columns, rows } = this.#stderr as { columns?: number, rows?: number }
    return { columns: columns || 80, rows: rows || 24 }
  }

  out (chunk: string | Uint8Array): Promise<void> {
    return this.#write(this.#stdout, chunk)
  }

  err (chunk: string | Uint8Array): Promise<void> {
    return this.#write(this.#stderr, chunk)
  }

  line (text: string): Promise<void> {
    return this.out(`${text}\n`)
  }

  json (value: unknown): Promise<void> {
    return this.line(JSON.stringify(value, null, 2))
  }

  /** Something worth knowing beside the output itself. */
  note (text: string): Promise<void> {
    return this.err(`berth: ${text}\n`)
  }

  /** Ends when everything written has left; fails if it could not. */
  async flush (): Promise<void> {
    for (const stream of [this.#stdout, this.#stderr]) {
      const error = await new Promise<Error | null | undefined>(resolve => stream.write('', resolve))
      if (error) throw asBrokenPipe(this.#failures.get(stream) ?? error)
    }
  }

  async #write (stream: Writable, chunk: string | Uint8Array): Promise<void> {
    this.#check(stream)
    if (stream.write(chunk)) return
    try {
      await once(stream, 'drain')
    } catch (error) {
      throw asBrokenPipe(error as Error)
    }
  }

  #check (stream: Writable): void {
    const failure = this.#failures.get(stream)
    if (failure) throw asBrokenPipe(failure)
  }
}

function asBrokenPipe (error: NodeJS.ErrnoException): Error {
  return error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED' ? new BrokenPipeError() : error
}
