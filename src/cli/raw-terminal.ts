import type { Writable } from 'node:stream'
import type { CliContext, TerminalMode } from './cli-context.ts'
import { ScreenModes } from './screen-modes.ts'

type TerminalOutput = Writable & { columns?: number, rows?: number }

export interface TerminalSize {
  cols: number
  rows: number
}

// What a terminal may have on the wire.
const largestSize = 1000

/**
 * The person's own terminal while a program of a sandbox has it: keys come as they are, and what the program asked of the screen is
 * known. `restore` gives it back as it was; however the process comes to its end, that is done before.
 */
export class RawTerminal implements Disposable {
  readonly #mode: TerminalMode | undefined
  readonly #output: TerminalOutput
  readonly #isTty: CliContext['isTty']
  readonly #cleanup = new DisposableStack()
  readonly modes = new ScreenModes()
  #isRaw = false
  #isOver = false

  /** Without a mode its keys are left as they are. */
  constructor (context: CliContext, mode?: TerminalMode) {
    this.#mode = mode
    this.#output = context.stdout
    this.#isTty = context.isTty
    const forget = context.onExit?.(() => this.restore())
    if (forget) this.#cleanup.defer(forget)
    if (!mode) return
    this.#isRaw = true
    mode.enter()
    // A shell that stopped us has put its own mode in the place of ours.
    this.#cleanup.defer(context.onSignal('SIGCONT', () => mode.enter()))
  }

  /** With the keys of the terminal that standard input is, if it is one. */
  static async withKeys (context: CliContext): Promise<RawTerminal> {
    return new RawTerminal(context, context.isTty.stdin ? await (context.terminalMode?.() ?? nodeMode(context)) : undefined)
  }

  /** Whether keys come one by one, Ctrl-C too. */
  get isRaw (): boolean {
    return this.#isRaw
  }

  /** Of the terminal that standard output is; undefined where it is none. */
  get size (): TerminalSize | undefined {
    const { columns, rows } = this.#output
    if (!this.#isTty.stdout || !columns || !rows) return undefined
    return { cols: Math.min(columns, largestSize), rows: Math.min(rows, largestSize) }
  }

  /** Calls the listener when the terminal has another size. */
  onResize (listener: () => void): void {
    this.#output.on('resize', listener)
    this.#cleanup.defer(() => { this.#output.off('resize', listener) })
  }

  /** Idempotent, and at once: it is all that is done where the process is about to end. */
  restore (): void {
    if (this.#isOver) return
    this.#isOver = true
    // The terminal itself may be gone.
    if (this.#isTty.stdout) try { this.#output.write(this.modes.reset()) } catch {}
    this.#isRaw = false
    this.#mode?.leave()
    this.#cleanup.dispose()
  }

  [Symbol.dispose] (): void {
    this.restore()
  }
}

function nodeMode ({ stdin }: CliContext): TerminalMode {
  const { setRawMode } = stdin as { setRawMode?: (isRaw: boolean) => unknown }
  return { enter: () => setRawMode?.call(stdin, true), leave: () => setRawMode?.call(stdin, false) }
}
