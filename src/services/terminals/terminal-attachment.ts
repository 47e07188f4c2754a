import { rejectWhenAborted } from '../../lib/abort-race.ts'
import type { ChangeSignal } from '../../lib/change-signal.ts'
import type { AttachEvent, TerminalEnd, TerminalStatus } from '../../schemas/terminal.ts'
import type { OutputReader } from './output-reader.ts'
import type { Screen } from './server/pty-protocol.ts'
import type { AttachOptions, TerminalAttachment, TerminalViewer } from './terminal-types.ts'

/** What an attachment needs of its terminal. */
export interface ViewedTerminal {
  /** Notified whenever anything below may have changed. */
  readonly changed: ChangeSignal
  readonly status: TerminalStatus
  readonly size: { cols: number, rows: number }
  /** Behind the last byte that is known of; where it has ended, behind the last of all. */
  readonly endOffset: number
  /** Once it has ended. */
  readonly end: TerminalEnd | undefined
  /** Its files are gone. */
  readonly isRemoved: boolean
  readonly reader: OutputReader
  /** Output from memory, as much as `into` has room for; undefined where that is not held. */
  read: (from: number, into: Buffer) => Buffer | undefined
  /** What it shows now. @throws BerthError */
  screen: () => Promise<Screen>
  /** The last screen that was kept. */
  keptScreen: () => Promise<Screen | undefined>
  join: () => Promise<void>
  leave: () => void
  write: (bytes: Buffer) => Promise<void>
  resize: (cols: number, rows: number) => Promise<void>
}

/** One who follows what is written now is skipped forward when so much waits for it. */
export const maxLagBytes = 4 * 1024 ** 2
const pieceBytes = 128 * 1024

/** One viewer of a terminal: its own position in the output, from which it takes what there is at its own speed. */
export class ViewerAttachment implements TerminalAttachment {
  readonly #terminal: ViewedTerminal
  readonly #options: AttachOptions
  readonly #viewer: TerminalViewer
  #position = 0
  /** Where it has caught up with the present; only from there on it can fall behind it. */
  #liveFrom = 0
  #shown = { cols: 0, rows: 0 }
  /** It asks for what is older than what is kept; a gap later on is its own slowness. */
  #isFirstRead = true
  /** What is sent; read into again when it has been sent. */
  readonly #piece = Buffer.allocUnsafeSlow(pieceBytes)

  constructor (terminal: ViewedTerminal, options: AttachOptions, viewer: TerminalViewer) {
    this.#terminal = terminal
    this.#options = options
    this.#viewer = viewer
  }

  async run (signal: AbortSignal): Promise<void> {
    try {
      // Subscribed before it is looked how far the output is: nothing falls between the two.
      await rejectWhenAborted(this.#terminal.join(), signal)
      await this.#begin(signal)
      while (!signal.aborted) {
        if (await this.#step(signal)) return
      }
    } catch (error) {
      if (!signal.aborted) throw error
    } finally {
      this.#terminal.leave()
    }
  }

  async write (bytes: Buffer): Promise<void> {
    await this.#terminal.write(bytes)
  }

  async resize (cols: number, rows: number): Promise<void> {
    await this.#terminal.resize(cols, rows)
  }

  async #begin (signal: AbortSignal): Promise<void> {
    const { role, since, cols, rows } = this.#options
    const terminal = this.#terminal
    if (role === 'write' && cols !== undefined && rows !== undefined && !terminal.end) {
      await rejectWhenAborted(terminal.resize(cols, rows), signal).catch(() => { /* it has ended meanwhile, as is told */ })
    }
    const screen = since === undefined ? await rejectWhenAborted(this.#startingScreen(), signal) : undefined
    this.#position = since ?? screen?.offset ?? await terminal.reader.oldest()
    this.#shown = terminal.size
    await this.#send({ type: 'ready', offset: this.#position, role, status: terminal.status, ...this.#shown }, signal)
    if (screen) await this.#paint(screen, signal)
    this.#liveFrom = terminal.endOffset
  }

  /** One thing that there is to do, or the wait for the next. Answers whether it was the last. */
  async #step (signal: AbortSignal): Promise<boolean> {
    const terminal = this.#terminal
    if (!terminal.isRemoved && (terminal.size.cols !== this.#shown.cols || terminal.size.rows !== this.#shown.rows)) {
      this.#shown = terminal.size
      await this.#send({ type: 'resize', ...this.#shown }, signal)
      return false
    }
    const { end, endOffset } = terminal
    const hasAll = this.#position >= endOffset || terminal.isRemoved
    if (end && hasAll) {
      const { at: _at, ...how } = end
      await this.#send({ type: 'exit', ...how }, signal)
      return true
    }
    if (hasAll) await terminal.changed.wait(signal)
    else if (!end && this.#position >= this.#liveFrom && endOffset - this.#position > maxLagBytes) await this.#skip(signal, { isForced: false })
    else await this.#advance(signal)
    return false
  }

  async #advance (signal: AbortSignal): Promise<void> {
    const held = this.#terminal.read(this.#position, this.#piece)
    if (held) return await this.#sendOutput(held, signal)
    const part = await this.#terminal.reader.read(this.#position, this.#piece)
    const isFirst = this.#isFirstRead
    this.#isFirstRead = false
    if (part?.kind === 'bytes') return await this.#sendOutput(part.bytes, signal)
    if (this.#terminal.isRemoved) return
    const screen = part && isFirst ? await this.#terminal.reader.screenAt(part.offset) : undefined
    if (screen) await this.#jump(screen, signal)
    else await this.#skip(signal, { isForced: true })
  }

  /** Goes on with the present. What cannot be read any more has to be left behind (`isForced`), with whatever screen there is. */
  async #skip (signal: AbortSignal, { isForced }: { isForced: boolean }): Promise<void> {
    const terminal = this.#terminal
    const screens = [() => rejectWhenAborted(terminal.screen(), signal), ...(isForced ? [() => terminal.reader.screenFrom(this.#position + 1)] : [])]
    let target: Screen | undefined
    for (const ask of terminal.end ? screens.slice(1) : screens) {
      const screen = await ask().catch(() => undefined)
      if (screen && screen.offset > this.#position) target ??= screen
    }
    signal.throwIfAborted()
    // The emulator may be behind, too: then it is read on until the present of now is there.
    if (target) await this.#jump(target, signal)
    else if (isForced && terminal.endOffset > this.#position) await this.#jump({ offset: terminal.endOffset, ...terminal.size, data: '' }, signal)
    this.#liveFrom = Math.max(this.#position, terminal.endOffset)
  }

  async #jump (screen: Screen, signal: AbortSignal): Promise<void> {
    await this.#send({ type: 'gap', offset: screen.offset, bytes: screen.offset - this.#position }, signal)
    await this.#paint(screen, signal)
    this.#position = screen.offset
  }

  async #paint (screen: Screen, signal: AbortSignal): Promise<void> {
    const { offset, cols, rows, data } = screen
    this.#shown = { cols, rows }
    await this.#send({ type: 'screen', offset, cols, rows, data }, signal)
  }

  /** What it shows at its start: the present, or where nobody can tell that, the last that was kept, which the output behind it brings up to the end. */
  async #startingScreen (): Promise<Screen | undefined> {
    const present = this.#terminal.end ? undefined : await this.#terminal.screen().catch(() => undefined)
    return present ?? await this.#terminal.keptScreen()
  }

  async #sendOutput (bytes: Buffer, signal: AbortSignal): Promise<void> {
    await rejectWhenAborted(this.#viewer.sendOutput(bytes), signal)
    this.#position += bytes.length
    this.#isFirstRead = false
  }

  async #send (event: AttachEvent, signal: AbortSignal): Promise<void> {
    await rejectWhenAborted(this.#viewer.sendEvent(event), signal)
  }
}
