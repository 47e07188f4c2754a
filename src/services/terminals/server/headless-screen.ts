import serializeAddon from '@xterm/addon-serialize'
import headless, { type IUnicodeVersionProvider, type Terminal } from '@xterm/headless'
import type { Screen } from './pty-protocol.ts'

const scrollbackLines = 1000
// 12 bytes each: a terminal of any width takes at most 2.4 MB for what has scrolled by.
const maxScrollbackCells = 200_000
/** The largest screen as JSON, in bytes. */
export const maxScreenBytes = 4 * 1024 ** 2
// More marks on one character than any script has.
const maxMarks = 16
const cancel = 0x18

// Their cost grows with their number, which is of no use above that of rows or columns; beside them CSI t, which keeps titles.
const repeatingFinals = ['@', 'I', 'L', 'M', 'P', 'S', 'T', 'Z', 'b']
// Title, icon, and links: kept for ever or as long as a line, and none of a screen.
const keptStrings = [0, 1, 2, 8]

/** What a terminal shows, out of its output. Bounded in memory, and in time for each byte of output, whatever the output is. */
export class HeadlessScreen {
  readonly #terminal: Terminal
  readonly #serializer = new serializeAddon.SerializeAddon()

  constructor (cols: number, rows: number) {
    this.#terminal = new headless.Terminal({ cols, rows, scrollback: scrollbackOf(cols), allowProposedApi: true, logLevel: 'off' })
    this.#terminal.loadAddon(this.#serializer)
    for (const final of repeatingFinals) this.#terminal.parser.registerCsiHandler({ final }, params => params.some(value => this.#isTooOften(Number(value))))
    this.#terminal.parser.registerCsiHandler({ final: 't' }, () => true)
    for (const identifier of keptStrings) this.#terminal.parser.registerOscHandler(identifier, () => true)
    limitMarks(this.#terminal)
  }

  /** Takes output; resolves when it is on the screen. */
  async write (bytes: Uint8Array): Promise<void> {
    await new Promise<void>(resolve => { this.#terminal.write(bytes, resolve) })
  }

  /** Output is missing here: what was begun of a control sequence is given up. */
  async skip (): Promise<void> {
    await this.write(Uint8Array.of(cancel))
  }

  resize (cols: number, rows: number): void {
    this.#terminal.options.scrollback = scrollbackOf(cols)
    this.#terminal.resize(cols, rows)
  }

  /** What is shown, as output that paints it; of a screen that would be too large only what is seen, and if need be only its text. */
  at (offset: number): Screen {
    const { cols, rows } = this.#terminal
    const candidates = [
      () => this.#serializer.serialize(),
      () => this.#serializer.serialize({ scrollback: 0 }),
      () => this.#text(),
    ]
    for (const candidate of candidates) {
      const screen = { offset, cols, rows, data: candidate() }
      // A control character takes six bytes of JSON.
      if (screen.data.length * 6 <= maxScreenBytes || Buffer.byteLength(JSON.stringify(screen)) <= maxScreenBytes) return screen
    }
    return { offset, cols, rows, data: '' }
  }

  dispose (): void {
    this.#terminal.dispose()
  }

  #isTooOften (times: number): boolean {
    return times > Math.max(this.#terminal.cols, this.#terminal.rows)
  }

  #text (): string {
    const buffer = this.#terminal.buffer.active
    return Array.from({ length: this.#terminal.rows }, (_, row) => buffer.getLine(buffer.baseY + row)?.translateToString(true) ?? '').join('\r\n')
  }
}

function scrollbackOf (cols: number): number {
  return Math.min(scrollbackLines, Math.floor(maxScrollbackCells / cols))
}

/** What xterm.js knows of a character: state, then two bits of width, then whether it joins the one before. */
const joins = 1
const widthShift = 1
const stateShift = 3

/** Has a character take only so many marks: xterm.js keeps any number of them, in memory that output of a few characters a line can fill. */
function limitMarks (terminal: Terminal): void {
  const { unicodeService } = (terminal as unknown as { _core: { unicodeService: { _activeProvider: IUnicodeVersionProvider } } })._core
  const provider = unicodeService._activeProvider
  terminal.unicode.register({
    version: 'berth',
    wcwidth: codepoint => provider.wcwidth(codepoint),
    charProperties: (codepoint, preceding) => {
      const properties = provider.charProperties(codepoint, preceding & ((1 << stateShift) - 1))
      if ((properties & joins) === 0) return properties
      const marks = (preceding >>> stateShift) + 1
      // One too many stands for itself.
      return marks > maxMarks ? 1 << widthShift : properties | marks << stateShift
    },
  })
  terminal.unicode.activeVersion = 'berth'
}
