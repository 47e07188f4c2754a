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
// What was begun and is longer is a string, and given up; far below what is kept of the output.
const maxBegunBytes = 16 * 1024
const escape = 0x1b
// Steps of the cursor, with nothing written behind them.
// eslint-disable-next-line no-control-regex
const endsWithMoves = /\x1b\[\d*[A-D](\x1b\[[?\d;]*[A-Za-z])*$/
// In more of its end than this it is not looked for: what is serialized is as long as whoever writes likes.
const lookedAtEnd = 256
const nothing = Buffer.alloc(0)

// Title, icon, and links: kept for ever or as long as a line, and none of a screen.
const keptStrings = [0, 1, 2, 8]

/** What a terminal shows, out of its output. Bounded in memory, and in time for each byte of output, whatever the output is. */
export class HeadlessScreen {
  readonly #terminal: Terminal
  readonly #serializer = new serializeAddon.SerializeAddon()
  /** The end of the output where that is the beginning of a character or of a control sequence: it has had no effect yet. */
  #begun: Buffer = nothing

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
    const begun = this.#findBegun(bytes)
    this.#begun = begun.length > maxBegunBytes ? nothing : begun
  }

  /** Output is missing here: what was begun of a control sequence is given up. */
  async skip (): Promise<void> {
    await this.write(Uint8Array.of(cancel))
  }

  resize (cols: number, rows: number): void {
    this.#terminal.options.scrollback = scrollbackOf(cols)
    this.#terminal.resize(cols, rows)
  }

  /**
   * What is shown, as output that paints it; of a screen that would be too large only what is seen, and if need be only its text. Where the
   * output ends amid a character or a control sequence, the screen is of the offset at which that begins: the same is shown there, and who
   * goes on from there misses nothing.
   */
  at (offset: number): Screen {
    return this.#paint(offset - this.#begun.length, '')
  }

  /** The same, of this very offset: what was begun of a control sequence is begun by the screen too, and half a character is lost. */
  atExactly (offset: number): Screen {
    return this.#paint(offset, this.#begun.every(byte => byte < 0x80) ? this.#begun.toString('latin1') : '')
  }

  #paint (offset: number, begun: string): Screen {
    const { cols, rows } = this.#terminal
    const candidates = [
      () => this.#completed(this.#serializer.serialize()) + begun,
      () => this.#completed(this.#serializer.serialize({ scrollback: 0 })) + begun,
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

  /** With what the serializer leaves out: scroll region, character sets, encoding of the mouse, and the cursor where it is hidden or has been moved. */
  #completed (data: string): string {
    const { rows, modes: { originMode } } = this.#terminal
    const { buffer: { scrollTop, scrollBottom }, coreService, coreMouseService, _charsetService: { _charsets: charsets, glevel } } = coreOf(this.#terminal)
    const hasRegion = scrollTop > 0 || scrollBottom < rows - 1
    const parts = [data]
    if (hasRegion) parts.push(`\x1b[${scrollTop + 1};${scrollBottom + 1}r`)
    if (hasRegion || originMode || endsWithMoves.test(data.slice(-lookedAtEnd))) parts.push(this.#cursor())
    if (isLineDrawing(charsets[0])) parts.push('\x1b(0')
    if (isLineDrawing(charsets[1])) parts.push('\x1b)0')
    if (glevel === 1) parts.push('\x0e')
    if (coreMouseService.activeEncoding === 'SGR') parts.push('\x1b[?1006h')
    if (coreService.isCursorHidden) parts.push('\x1b[?25l')
    return parts.join('')
  }

  /** Puts the cursor where it is. The serializer moves it by steps, and counts them wrongly from behind a full line. */
  #cursor (): string {
    const { cols, buffer: { active }, modes: { originMode } } = this.#terminal
    const { scrollTop, x, y } = coreOf(this.#terminal).buffer
    const row = y + 1 - (originMode ? scrollTop : 0)
    if (x < cols || active.type === 'alternate') return `\x1b[${row};${Math.min(x, cols - 1) + 1}H`
    // Behind a full line it is only by writing that line.
    const line = active.baseY + y
    return `\x1b[0m\x1b[${row};1H${this.#serializer.serialize({ range: { start: line, end: line }, excludeModes: true, excludeAltBuffer: true })}`
  }

  #findBegun (bytes: Uint8Array): Buffer {
    const { _parser: { currentState }, _utf8Decoder: { interim } } = coreOf(this.#terminal)._inputHandler
    const isWithinSequence = currentState !== 0
    if (!isWithinSequence && interim[0] === 0) return nothing
    const from = isWithinSequence ? bytes.lastIndexOf(escape) : bytes.findLastIndex(byte => byte >= 0xc0)
    if (from !== -1) return Buffer.from(bytes.subarray(from))
    // Without a beginning here there is one before, or nobody knows where.
    return this.#begun.length > 0 ? Buffer.concat([this.#begun, bytes]) : nothing
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

/** Of the inside of xterm.js, what its interface does not tell. */
interface Core {
  buffer: { scrollTop: number, scrollBottom: number, x: number, y: number }
  coreService: { isCursorHidden: boolean }
  coreMouseService: { activeEncoding: string }
  unicodeService: { _activeProvider: IUnicodeVersionProvider }
  _charsetService: { _charsets: ReadonlyArray<Readonly<Record<string, string>> | undefined>, glevel: number }
  _inputHandler: {
    /** 0: between control sequences. */
    _parser: { currentState: number }
    /** Bytes of a character that is not whole; 0 where there are none. */
    _utf8Decoder: { interim: Uint8Array }
  }
}

const isLineDrawing = (charset: Readonly<Record<string, string>> | undefined) => charset?.['q'] === '\u2500'

const coreOf = (terminal: Terminal) => (terminal as unknown as { _core: Core })._core

/** What xterm.js knows of a character: state, then two bits of width, then whether it joins the one before. */
const joins = 1
const widthShift = 1
const stateShift = 3

/** Has a character take only so many marks: xterm.js keeps any number of them, in memory that output of a few characters a line can fill. */
function limitMarks (terminal: Terminal): void {
  const provider = coreOf(terminal).unicodeService._activeProvider
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
