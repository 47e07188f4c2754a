/** A terminal without a program, for tests of those who look at it: output files as a pty-host writes them, and frames, some of them left out. */
import { appendFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { AttachEvent, TerminalEnd } from '../../../src/schemas/terminal.ts'
import { readKeptScreen } from '../../../src/services/terminals/kept-screen.ts'
import { readExtent } from '../../../src/services/terminals/output-extent.ts'
import { OutputReader } from '../../../src/services/terminals/output-reader.ts'
import { screenPath, segmentOffsets, segmentPath } from '../../../src/services/terminals/server/output-segments.ts'
import type { Screen } from '../../../src/services/terminals/server/pty-protocol.ts'
import { ViewerAttachment, type ViewedTerminal } from '../../../src/services/terminals/terminal-attachment.ts'
import { TerminalFeed } from '../../../src/services/terminals/terminal-feed.ts'
import type { AttachOptions, TerminalViewer } from '../../../src/services/terminals/terminal-types.ts'

/** The byte that stands at an offset. */
export const byteAt = (offset: number): number => (offset * 31 + Math.floor(offset / 251)) % 256

export function outputOf (from: number, to: number): Buffer {
  const bytes = Buffer.alloc(to - from)
  for (let index = 0; index < bytes.length; index++) bytes[index] = byteAt(from + index)
  return bytes
}

export class FakeTerminal {
  readonly dir = mkdtempSync(join(tmpdir(), 'berth-viewer-'))
  readonly feed: TerminalFeed
  readonly reader = new OutputReader(this.dir)
  readonly #segmentBytes: number
  readonly #keptSegments: number
  #segment = 0
  offset = 0
  size = { cols: 80, rows: 24 }
  end: TerminalEnd | undefined
  isRemoved = false
  hasScreens = true

  constructor ({ segmentBytes = 2 * 1024 ** 2, keptSegments = 5 } = {}) {
    this.#segmentBytes = segmentBytes
    this.#keptSegments = keptSegments
    this.feed = new TerminalFeed({ subscribe: async () => this.offset, unsubscribe: async () => {}, onError: error => { throw error } })
    writeFileSync(segmentPath(this.dir, 0), '')
  }

  /** Writes so many bytes. `isSent`: in a frame too, else it is only told that there is more. */
  write (length: number, { isSent = true } = {}): void {
    for (let left = length; left > 0;) {
      const room = this.#segment + this.#segmentBytes - this.offset
      const bytes = outputOf(this.offset, this.offset + Math.min(left, room))
      appendFileSync(segmentPath(this.dir, this.#segment), bytes)
      const { offset } = this
      this.offset += bytes.length
      left -= bytes.length
      if (isSent) this.feed.onOutput(offset, bytes)
      else this.feed.onAdvanced(this.offset)
      if (bytes.length === room) this.#rotate()
    }
  }

  resize (cols: number, rows: number): void {
    this.size = { cols, rows }
    this.feed.changed.notify()
  }

  exit (): void {
    this.end = { reason: 'exited', at: new Date().toISOString(), exitCode: 0 }
    this.feed.changed.notify()
  }

  remove (): void {
    rmSync(this.dir, { recursive: true, force: true })
    this.isRemoved = true
    this.end = { reason: 'deleted', at: new Date().toISOString() }
    this.feed.changed.notify()
  }

  attach (options: AttachOptions, viewer: TerminalViewer): ViewerAttachment {
    return new ViewerAttachment(this.#viewed(), options, viewer)
  }

  #rotate (): void {
    this.#segment = this.offset
    writeFileSync(screenPath(this.dir, this.offset), JSON.stringify(this.#screen()))
    writeFileSync(segmentPath(this.dir, this.offset), '')
    const offsets = segmentOffsets(readdirSync(this.dir))
    for (const offset of offsets.slice(0, -this.#keptSegments)) {
      rmSync(segmentPath(this.dir, offset))
      rmSync(screenPath(this.dir, offset), { force: true })
    }
  }

  #screen (): Screen {
    return { offset: this.offset, ...this.size, data: `screen at ${this.offset}` }
  }

  #viewed (): ViewedTerminal {
    const terminal = this
    return {
      changed: this.feed.changed,
      reader: this.reader,
      get status () { return terminal.end ? 'ended' as const : 'running' as const },
      get size () { return terminal.size },
      get endOffset () { return terminal.end && !terminal.isRemoved ? readExtent(terminal.dir).endOffset : terminal.feed.end },
      get end () { return terminal.end },
      get isRemoved () { return terminal.isRemoved },
      read: (from, maxBytes) => this.feed.read(from, maxBytes),
      screen: async () => {
        if (!this.hasScreens || this.end) throw new Error('no screen')
        return this.#screen()
      },
      keptScreen: () => readKeptScreen(this.dir, this.reader),
      join: () => this.feed.join(),
      leave: () => this.feed.leave(),
      write: async () => {},
      resize: async (cols, rows) => this.resize(cols, rows),
    }
  }
}

/** Remembers what it was sent, and asserts that each byte is the one of its offset. */
export class FakeViewer implements TerminalViewer {
  readonly events: AttachEvent[] = []
  position = 0
  received = 0
  /** Waits before more is taken. */
  pause: () => Promise<void> = async () => {}

  async sendEvent (event: AttachEvent): Promise<void> {
    if (event.type === 'gap' && event.offset - event.bytes !== this.position) throw new Error(`a gap of ${event.bytes} up to ${event.offset} for one who is at ${this.position}`)
    if ('offset' in event) this.position = event.offset
    this.events.push(event)
    await this.pause()
  }

  async sendOutput (bytes: Buffer): Promise<void> {
    if (!bytes.equals(outputOf(this.position, this.position + bytes.length))) throw new Error(`other bytes than those at ${this.position}`)
    this.position += bytes.length
    this.received += bytes.length
    await this.pause()
  }

  types (): string[] {
    return this.events.map(({ type }) => type)
  }
}
