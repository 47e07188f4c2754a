/**
 * What a program asked of the terminal beside text, and what takes it back.
 *
 * Private modes (`CSI ? … h` and `l`) are reset only where they were set and not taken back since: leaving the alternate screen of a
 * terminal that is not in it would move the cursor of the person's own shell. Modes that are on by themselves are set again where they were reset.
 */
export class ScreenModes {
  readonly #changed = new Map<number, boolean>()
  readonly #others = new Set<string>()
  /** An escape sequence that is not whole yet. */
  #held = ''

  /** Looks at what is about to be written to the terminal. */
  watch (output: Buffer | string): void {
    // Every byte of a control sequence is ASCII; what is none of ours need not be decoded.
    const text = this.#held + (typeof output === 'string' ? output : output.toString('latin1'))
    this.#held = ''
    let end = 0
    for (const match of text.matchAll(sequences)) {
      end = match.index + match[0].length
      this.#take(match[0])
    }
    const begin = text.indexOf('\u001b', Math.max(end, text.length - longestSequence))
    if (begin !== -1 && unfinished.test(text.slice(begin))) this.#held = text.slice(begin)
  }

  get isAlternate (): boolean {
    return alternateScreens.some(mode => this.#changed.get(mode))
  }

  /** Output that makes the terminal as it was; after it all is taken for reset. */
  reset (): string {
    const modes = [...this.#changed].filter(([mode]) => !alternateScreens.includes(mode))
    const parts = [
      ...modes.map(([mode]) => `\u001b[?${mode}${onByThemselves.has(mode) ? 'h' : 'l'}`),
      ...this.#others,
      // Last, so that what was drawn and moved before is on the screen that goes away.
      ...alternateScreens.filter(mode => this.#changed.get(mode)).map(mode => `\u001b[?${mode}l`),
      '\u001b[0m',
    ]
    this.#clear()
    return parts.join('')
  }

  #take (sequence: string): void {
    if (sequence === '\u001bc') return this.#clear()
    const privateModes = /^\u001b\[\?([\d;]+)([hl])$/.exec(sequence) // eslint-disable-line no-control-regex
    if (!privateModes) {
      for (const { seen, undo } of otherModes) if (seen.test(sequence)) this.#others.add(undo)
      return
    }
    const isOn = privateModes[2] === 'h'
    for (const mode of privateModes[1]!.split(';').map(Number)) {
      if (!watchedModes.has(mode)) continue
      if (isOn === onByThemselves.has(mode)) this.#changed.delete(mode)
      else this.#changed.set(mode, true)
    }
  }

  #clear (): void {
    this.#changed.clear()
    this.#others.clear()
  }
}

const longestSequence = 128
const alternateScreens = [47, 1047, 1049]
// Wrapping at the right edge, and the cursor.
const onByThemselves: ReadonlySet<number> = new Set([7, 25])
/** Cursor keys, reverse video, origin, wrapping, mouse (also its encodings), cursor, focus, alternate screens, pasting, synchronized output. */
const watchedModes: ReadonlySet<number> = new Set([1, 5, 6, 7, 9, 25, 47, 66, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026])

/* eslint-disable no-control-regex */
const sequences = /\u001b(?:c|[=>]|\[[<-?]?[\d;:]*[ !"$']?[@-~]|[()][A-Z0-9])|\u000e/g
const unfinished = /^\u001b(?:\[[<-?]?[\d;:]*[ !"$']?|[()])?$/

/** Others, of which nobody says what they were before: they are put back to what a terminal begins with. */
const otherModes = [
  { seen: /^\u001b=$/, undo: '\u001b>' },
  // A scrolling region; to reset it moves the cursor.
  { seen: /^\u001b\[\d+;\d*r$/, undo: '\u001b7\u001b[r\u001b8' },
  { seen: /^\u001b\[\d* q$/, undo: '\u001b[0 q' },
  { seen: /^\u001b\[4h$/, undo: '\u001b[4l' },
  { seen: /^\u001b\[>4;\d+m$/, undo: '\u001b[>4m' },
  { seen: /^\u001b\[>\d*u$/, undo: '\u001b[<u' },
  { seen: /^\u001b\([^B]$|^\u000e$/, undo: '\u001b(B\u000f' },
]
/* eslint-enable no-control-regex */
