import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { BerthError } from '../../../errors.ts'
import { Pty } from '../../../host/pty.ts'
import { writeDurably } from '../../../lib/durable-file.ts'
import type { ProgramEnd } from '../../../host/spawn.ts'
import { InputQueue } from './input-queue.ts'
import { OutputWriter } from './output-writer.ts'
import type { PtyCreate, PtyEnd, PtyStatus, Screen } from './pty-protocol.ts'
import type { ScreenKeeper } from './screen-keeper.ts'

export interface PtyTerminalOptions {
  id: string
  create: Omit<PtyCreate, 'op'>
  screens: Pick<ScreenKeeper, 'add' | 'advance' | 'resize' | 'screen' | 'end' | 'remove'>
  logger: Pick<Logger, 'info' | 'warn' | 'error'>
  /** Output from this offset on, which is in the files. The bytes are lent until `release` is called, which is to be called once. */
  onOutput: (offset: number, bytes: Buffer, release: () => void) => void
  onTaken: (sender: object, bytes: number) => void
  /** After all output, when `end.json` is on disk. */
  onEnded: (end: PtyEnd) => void
}

const holdBytes = 128 * 1024
/** Buffers of which nobody needs anything any more, for the next that has output: an idle terminal has none. */
const spares: Buffer[] = []
const maxSpares = 8

/**
 * One program at a pseudo-terminal, with its files:
 *
 *     Pty → file → onOutput             ScreenKeeper reads the file
 *     input → InputQueue → Pty
 */
export class PtyTerminal {
  readonly id: string
  readonly #options: PtyTerminalOptions
  readonly #writer: OutputWriter
  readonly #input: InputQueue
  readonly #pty: Pty
  readonly #ended = Promise.withResolvers<void>()
  #size: { cols: number, rows: number }
  #held: Buffer | undefined
  #heldBytes = 0
  #flush: NodeJS.Immediate | undefined
  #end: PtyEnd | undefined

  /** Starts the program. @throws BerthError as Pty does, and conflict `terminal_exists` where its directory is in use */
  constructor (options: PtyTerminalOptions) {
    const { id, create: { argv, dir, cols, rows, windowBytes }, logger } = options
    this.id = id
    this.#options = options
    this.#size = { cols, rows }
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    if (readdirSync(dir).some(name => /^(output|screen)\.|^end\.json$/.test(name))) {
      throw new BerthError('conflict', 'terminal_exists', 'the directory of this terminal holds output of another; give it one of its own')
    }
    this.#writer = new OutputWriter({ dir, windowBytes, onFailed: err => logger.warn({ err, terminalId: id }, 'output cannot be written to its file') })
    this.#input = new InputQueue({ write: bytes => this.#pty.write(bytes), onTaken: options.onTaken })
    this.#pty = new Pty({ argv, cols, rows, onOutput: chunk => this.#hold(chunk), onEnd: end => void this.#finish(end) })
    options.screens.add({ id, dir, cols, rows, offset: 0 })
  }

  /** Resolves when it has ended and `onEnded` was told. */
  get ended (): Promise<void> {
    return this.#ended.promise
  }

  get status (): PtyStatus {
    const { id } = this
    return { id, dir: this.#options.create.dir, ...this.#size, pid: this.#pty.pid, offset: this.#writer.offset, ...(this.#end ? { end: this.#end } : {}) }
  }

  /** @throws BerthError `input_window_exceeded` */
  input (sender: object, bytes: Buffer): void {
    this.#input.add(sender, bytes)
  }

  resize (cols: number, rows: number): void {
    if (cols === this.#size.cols && rows === this.#size.rows) return
    this.#pty.resize(cols, rows)
    this.#size = { cols, rows }
    this.#options.screens.resize(this.id, this.#writer.offset, cols, rows)
  }

  /** Has the program told that its terminal is gone, or kills it; one that has ended is fine. */
  hangUp (isForced: boolean): void {
    this.#pty.signal(isForced ? 'SIGKILL' : 'SIGHUP')
  }

  /** Where its output is after all of it that was read was passed on. */
  settle (): number {
    this.#passOn()
    return this.#writer.offset
  }

  async screen (): Promise<Screen> {
    return await this.#options.screens.screen(this.id, this.settle())
  }

  /** Forgets its screen. To be called when it has ended. */
  release (): void {
    this.#options.screens.remove(this.id)
  }

  /** What one turn of the event loop reads is written at its end, at once. */
  #hold (chunk: Buffer): void {
    if (this.#heldBytes + chunk.length > holdBytes) this.#passOn()
    this.#held ??= spares.pop() ?? Buffer.allocUnsafeSlow(holdBytes)
    this.#heldBytes += chunk.copy(this.#held, this.#heldBytes)
    this.#flush ??= setImmediate(() => this.#passOn())
  }

  #passOn (): void {
    clearImmediate(this.#flush)
    this.#flush = undefined
    if (!this.#held) return
    const memory = this.#held
    const bytes = memory.subarray(0, this.#heldBytes)
    this.#held = undefined
    this.#heldBytes = 0
    const { offset } = this.#writer
    this.#writer.append(bytes)
    this.#options.onOutput(offset, bytes, () => { if (spares.length < maxSpares) spares.push(memory) })
    this.#options.screens.advance(this.id, this.#writer.offset)
    this.#input.pump()
  }

  async #finish ({ exitCode, signalNumber }: ProgramEnd): Promise<void> {
    this.#passOn()
    this.#writer.close()
    const end: PtyEnd = { at: new Date().toISOString(), offset: this.#writer.offset, exitCode, signalNumber }
    this.#options.screens.end(this.id, end.offset)
    await writeDurably(join(this.#options.create.dir, 'end.json'), JSON.stringify(end)).catch((err: unknown) => {
      this.#options.logger.error({ err, terminalId: this.id }, 'the end of a terminal cannot be written down')
    })
    this.#end = end
    // What nobody reads any more is taken.
    this.#input.pump()
    this.#options.onEnded(end)
    this.#ended.resolve()
  }
}
