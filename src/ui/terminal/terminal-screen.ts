/** A terminal's screen in the page: xterm.js, and what a hostile program must not get out of it. */
import { FitAddon } from '@xterm/addon-fit'
import { SearchAddon } from '@xterm/addon-search'
import { SerializeAddon } from '@xterm/addon-serialize'
import { WebLinksAddon } from '@xterm/addon-web-links'
import { Terminal } from '@xterm/xterm'
import type { TerminalSink, TerminalSize } from '../api/terminal-connection.ts'
import { linkTarget, sanitizeTitle } from '../text/hostile-text.ts'
import { allowTerminalStyles } from './strict-styles.ts'
import { terminalTheme } from './terminal-theme.ts'

export interface TerminalScreenOptions {
  isDark: boolean
  isReadOnly: boolean
  screenReaderMode: boolean
  /** What was typed or pasted, and what the terminal answers to questions of the program. */
  onInput: (bytes: Uint8Array) => void
  onTitle: (title: string) => void
  /** Whose text is not its address: to be asked about. */
  onHiddenLink: (address: string) => void
  onSkip: (bytes: number) => void
  /** Keys that are not for the program. */
  onCommand: (command: 'search' | 'leave') => void
}

const scrollback = 10_000
const longestSaved = 2 * 1024 * 1024

export interface SavedScreen extends TerminalSize {
  offset: number
  data: string
}

export class TerminalScreen implements TerminalSink {
  readonly xterm: Terminal
  readonly search = new SearchAddon({ highlightLimit: 500 })
  readonly #fit = new FitAddon()
  readonly #serializer = new SerializeAddon()
  readonly #isReadOnly: boolean
  /** How many pieces of what is past are not shown yet: nobody waits for answers to them. */
  #replays = 0

  constructor (options: TerminalScreenOptions) {
    allowTerminalStyles()
    this.#isReadOnly = options.isReadOnly
    this.xterm = new Terminal({
      theme: terminalTheme(options.isDark),
      fontFamily: 'ui-monospace, "SF Mono", "Cascadia Mono", "JetBrains Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace',
      fontSize: 13,
      scrollback,
      cursorBlink: false,
      minimumContrastRatio: 4.5,
      screenReaderMode: options.screenReaderMode,
      disableStdin: options.isReadOnly,
      allowProposedApi: true,
      linkHandler: { activate: (_event, address) => { const target = linkTarget(address); if (target !== undefined) options.onHiddenLink(target) } },
    })
    this.xterm.loadAddon(this.#fit)
    this.xterm.loadAddon(this.search)
    this.xterm.loadAddon(this.#serializer)
    this.xterm.loadAddon(new WebLinksAddon((_event, address) => openLink(address)))
    const encoder = new TextEncoder()
    this.xterm.onData(text => { if (this.#replays === 0) options.onInput(encoder.encode(text)) })
    this.xterm.onBinary(text => { if (this.#replays === 0) options.onInput(Uint8Array.from(text, char => char.charCodeAt(0))) })
    this.xterm.onTitleChange(title => options.onTitle(sanitizeTitle(title)))
    this.xterm.attachCustomKeyEventHandler(event => this.#isForProgram(event, options.onCommand))
    this.skip = options.onSkip
  }

  readonly skip: (bytes: number) => void

  open (element: HTMLElement): void {
    this.xterm.open(element)
    this.xterm.textarea?.setAttribute('aria-label', this.#isReadOnly ? 'Terminal, read only' : 'Terminal input')
  }

  paint ({ cols, rows }: TerminalSize, data: string): void {
    this.xterm.reset()
    this.xterm.resize(cols, rows)
    this.#replays++
    this.xterm.write(data, () => { this.#replays-- })
  }

  write (bytes: Uint8Array, isReplay: boolean, done: () => void): void {
    if (isReplay) this.#replays++
    this.xterm.write(bytes, () => {
      if (isReplay) this.#replays--
      done()
    })
  }

  resize ({ cols, rows }: TerminalSize): void {
    if (cols !== this.xterm.cols || rows !== this.xterm.rows) this.xterm.resize(cols, rows)
  }

  /** What fits into its place; undefined while it has none, and for who only looks. */
  wantedSize (): TerminalSize | undefined {
    const fitting = this.#isReadOnly ? undefined : this.#fit.proposeDimensions()
    if (fitting === undefined || !Number.isFinite(fitting.cols) || !Number.isFinite(fitting.rows)) return undefined
    return { cols: bounded(fitting.cols), rows: bounded(fitting.rows) }
  }

  setTheme (isDark: boolean): void {
    this.xterm.options.theme = terminalTheme(isDark)
  }

  setScreenReaderMode (isOn: boolean): void {
    this.xterm.options.screenReaderMode = isOn
  }

  /** The screen with what has scrolled off it, to go on from at this offset; undefined where that would be too much to keep. */
  save (offset: number): SavedScreen | undefined {
    const data = this.#serializer.serialize({ scrollback })
    return data.length > longestSaved ? undefined : { offset, cols: this.xterm.cols, rows: this.xterm.rows, data }
  }

  /** By the browser's own copying, which also works where pages may not reach the clipboard. */
  copySelection (): boolean {
    return this.xterm.hasSelection() && document.execCommand('copy')
  }

  dispose (): void {
    this.xterm.dispose()
  }

  #isForProgram (event: KeyboardEvent, onCommand: TerminalScreenOptions['onCommand']): boolean {
    if (event.type !== 'keydown') return true
    const isChord = event.ctrlKey && event.shiftKey
    if (isChord && event.code === 'KeyC') this.copySelection()
    else if (isChord && event.code === 'KeyF') onCommand('search')
    else if (event.shiftKey && event.key === 'F6') onCommand('leave')
    // The browser pastes by itself.
    else return !(isChord && event.code === 'KeyV')
    event.preventDefault()
    return false
  }
}

const bounded = (figure: number) => Math.min(1000, Math.max(1, Math.floor(figure)))

/** In a window that knows nothing of this one. */
export function openLink (address: string): void {
  const target = linkTarget(address)
  if (target !== undefined) window.open(target, '_blank', 'noopener,noreferrer')
}
