/**
 * A process that is none: the few words of shell that tests of sandboxes need, interpreted in memory, so that a test can
 * say `kill -TERM -1` without harm to its host. Words: echo TEXT [>&2], exit N, sleep S, cat, true, false, trap "…" SIG,
 * kill -SIG $$ | -1, while :; do …; done, [ $# -le 2 ] && exit N (nothing runs but init and this).
 */
import { signalNumbers } from '../../src/host/command.ts'

export interface FakeProcessOptions {
  argv: readonly string[]
  /** Its standard input to the end. */
  read: () => Promise<string>
  write: (stream: 'stdout' | 'stderr', text: string) => void
  /** Signals every other process of the container but init. */
  signalOthers: (signal: string) => void
  /** How many other processes there are beside init. */
  countOthers: () => number
}

/** Thrown to leave a script at any depth. */
class Exit extends Error {
  readonly exitCode: number

  constructor (exitCode: number) {
    super(`exit ${exitCode}`)
    this.exitCode = exitCode
  }
}

export class FakeProcess {
  readonly ended: Promise<number>
  readonly #options: FakeProcessOptions
  readonly #traps = new Map<string, string>()
  readonly #pending: string[] = []
  #isPaused = false
  /** Ends the wait under way, to look at what has come. */
  #wake: () => void = () => {}

  constructor (options: FakeProcessOptions) {
    this.#options = options
    this.ended = this.#run()
  }

  signal (name: string): void {
    this.#pending.push(name.replace(/^SIG/, ''))
    this.#wake()
  }

  setPaused (isPaused: boolean): void {
    this.#isPaused = isPaused
    this.#wake()
  }

  async #run (): Promise<number> {
    try {
      // A program begins after the call that starts it has returned.
      await Promise.resolve()
      await this.#runProgram(this.#options.argv)
      await this.#settle()
      return 0
    } catch (error) {
      if (error instanceof Exit) return error.exitCode
      throw error
    }
  }

  async #runProgram (argv: readonly string[]): Promise<void> {
    const [program = '', ...args] = argv
    if (program.endsWith('/busybox')) return await this.#runProgram(args)
    if (program.endsWith('/init')) return await this.#runProgram(args.slice(1))
    if (program.endsWith('/idle')) return await this.#sleep(Infinity)
    if (program.endsWith('sh')) return await this.#runScript(args[1] ?? '')
    await this.#runWords([program.replace(/^.*\//, ''), ...args])
  }

  async #runScript (script: string): Promise<void> {
    for (const statement of splitStatements(script)) {
      await this.#settle()
      await this.#runStatement(statement)
    }
  }

  async #runStatement (statement: string): Promise<void> {
    const loop = /^while :; do (.*); done$/s.exec(statement)
    if (loop) {
      for (;;) {
        await this.#runScript(loop[1] ?? '')
        // A loop without a sleep would keep every other thing of this test from happening.
        await new Promise(resolve => setImmediate(resolve))
      }
    }
    const trap = /^trap "(.*)" (\w+)$/s.exec(statement)
    if (trap) this.#traps.set(trap[2] ?? '', trap[1] ?? '')
    else await this.#runWords(statement.split(' '))
  }

  async #runWords (words: readonly string[]): Promise<void> {
    const [word, ...args] = words
    switch (word) {
      case 'echo': return this.#echo(args)
      case 'cat': return this.#options.write('stdout', await this.#options.read())
      case 'exit': throw new Exit(Number(args[0] ?? 0))
      case 'sleep': case '/.berth/busybox': return await this.#sleep(Number(args.at(-1)) * 1000)
      case 'true': case ':': case 'set': return
      case 'false': throw new Exit(1)
      case 'kill': return await this.#kill(args)
      case '[':
        if (this.#options.countOthers() === 0) throw new Exit(Number(args.at(-1)))
        return
      default: throw new Error(`the fake's shell does not know the word ${word}`)
    }
  }

  #echo (words: readonly string[]): void {
    const isError = words.at(-1) === '>&2'
    this.#options.write(isError ? 'stderr' : 'stdout', `${(isError ? words.slice(0, -1) : words).join(' ')}\n`)
  }

  async #kill ([signal = '', target]: readonly string[]): Promise<void> {
    if (target === '-1') return this.#options.signalOthers(signal.slice(1))
    this.signal(signal.slice(1))
    await this.#settle()
  }

  async #sleep (durationMs: number): Promise<void> {
    const until = Date.now() + durationMs
    for (;;) {
      await this.#settle()
      const leftMs = until - Date.now()
      if (leftMs <= 0) return
      await this.#waitForNews(leftMs)
    }
  }

  /** Acts on the signals that have come, and stands still while paused. */
  async #settle (): Promise<void> {
    for (;;) {
      // A paused process is beyond every signal but the one that no process handles.
      const index = this.#isPaused ? this.#pending.indexOf('KILL') : 0
      const signal = this.#pending[index]
      if (signal !== undefined) {
        this.#pending.splice(index, 1)
        await this.#act(signal)
      } else if (this.#isPaused) {
        await this.#waitForNews(Infinity)
      } else {
        return
      }
    }
  }

  async #act (signal: string): Promise<void> {
    const handler = signal === 'KILL' ? undefined : this.#traps.get(signal)
    if (handler === undefined) throw new Exit(128 + (signalNumbers[`SIG${signal}`] ?? 0))
    await this.#runScript(handler)
  }

  async #waitForNews (atMostMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#wake = resolve
    const timer = Number.isFinite(atMostMs) ? setTimeout(resolve, atMostMs) : undefined
    await promise
    clearTimeout(timer)
  }
}

/** Splits a script at semicolons that are in neither quotes nor a loop. */
function splitStatements (script: string): string[] {
  return [...script.matchAll(/\s*((?:while :; do .*; done|"[^"]*"|[^;"])+);?/gs)].map(match => (match[1] ?? '').trim()).filter(Boolean)
}
