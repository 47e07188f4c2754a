import type { Socket } from 'node:net'
import { holdReading, startSplice, type SpliceOptions, type SpliceOutcome } from '../../host/splice.ts'
import { raceWithDelay } from '../../lib/race.ts'
import type { PlacedExec } from '../execs/placed-exec.ts'
import { parseHeader, parseLine } from './file-answers.ts'
import { bodyStalled, brokenAnswer, clientGone, problemError, programSilent } from './file-problems.ts'
import type { FileHeader } from './file-protocol.ts'

/** Longest line that the program writes; a name of 255 bytes and a path of 4 KiB fit many times, in base64 too. */
export const maxLineBytes = 64 * 1024

const newline = 10
/** When the program has ended, what is in its pipe is read, no more: another process inside may hold it open. */
const drainMs = 250
/** How long the program may take to undo what it began when nobody waits for it any more, before it is killed. */
const undoMs = 2000
/** How long a killed program's client may take to see that, before it is killed itself. */
const killMs = 5000
const keptStderrBytes = 2048

export interface FileRunOptions {
  /** Aborts what waits for the program, with the signal's reason, and ends it. */
  signal: AbortSignal
  /** The program may be silent for so long, in milliseconds, while it is waited for; without it for ever. */
  silenceMs?: number
  /** It has nothing to undo. */
  isKilledAtOnce?: boolean
  /** Told once, when nothing is left of it. `stderr` is the beginning of what it wrote where it should not write. */
  onEnded: (facts: { exitCode: number | undefined, stderr: string }) => void
}

export type SuccessHeader = Extract<FileHeader, { ok: true }>

/** One run of the program inside, from the side of its pipes: lines and bytes out of it, bounded in size and time, and its end in every case. */
export class FileRun {
  readonly #placed: PlacedExec
  readonly #options: FileRunOptions
  readonly #chunks: AsyncIterator<Buffer>
  readonly #ended: Promise<number | undefined>
  #rest: Buffer | undefined
  #failure: unknown
  #hasEnded = false
  #silenceMs: number | undefined
  #waitingSinceMs: number | undefined
  #watch: NodeJS.Timeout | undefined
  #closed: Promise<void> | undefined
  #killSplice: (() => void) | undefined

  constructor (placed: PlacedExec, options: FileRunOptions) {
    this.#placed = placed
    this.#options = options
    this.#silenceMs = options.silenceMs
    const { child, ended } = placed.attached
    // It may end without reading its input.
    child.stdin.on('error', () => {})
    let stderr = Buffer.alloc(0)
    child.stderr.on('error', () => {})
    child.stderr.on('data', (chunk: Buffer) => { if (stderr.length < keptStderrBytes) stderr = Buffer.concat([stderr, chunk]).subarray(0, keptStderrBytes) })
    this.#chunks = child.stdout[Symbol.asyncIterator]() as AsyncIterator<Buffer>
    this.#ended = ended.then(({ exitCode }) => exitCode, error => { this.#failure ??= error; return undefined }).then(async exitCode => {
      this.#hasEnded = true
      await placed.release().catch(() => {})
      options.onEnded({ exitCode, stderr: stderr.toString('utf8') })
      return exitCode
    })
    this.#ended.catch(() => {})
    this.#watch = setInterval(() => this.#look(), drainMs / 2)
    options.signal.addEventListener('abort', this.#onAbort, { once: true })
    if (options.signal.aborted) this.#onAbort()
  }

  get stdin () { return this.#placed.attached.child.stdin }

  /** How long it may be silent from here on, in milliseconds; undefined: for ever. */
  allowSilence (silenceMs: number | undefined): void {
    this.#silenceMs = silenceMs
    if (this.#waitingSinceMs !== undefined) this.#waitingSinceMs = performance.now()
  }

  /** The next chunk of its output, or undefined at the end of it. */
  async read (): Promise<Buffer | undefined> {
    const rest = this.#rest
    if (rest) {
      this.#rest = undefined
      return rest
    }
    this.#throwFailure()
    this.#waitingSinceMs = performance.now()
    try {
      const { value, done } = await this.#chunks.next()
      this.#throwFailure()
      return done ? undefined : value as Buffer
    } catch (error) {
      this.#throwFailure()
      // Broken off by `#look`, when there was nothing more to come.
      if (this.#hasEnded) return undefined
      throw error
    } finally {
      this.#waitingSinceMs = undefined
    }
  }

  /** The next line as an object, or undefined at the end. What is left without a line end is none. */
  async line (): Promise<Record<string, unknown> | undefined> {
    const held: Buffer[] = []
    let heldBytes = 0
    for (;;) {
      const chunk = await this.read()
      if (!chunk) return undefined
      const end = chunk.indexOf(newline)
      const piece = end === -1 ? chunk : chunk.subarray(0, end)
      heldBytes += piece.length
      if (heldBytes > maxLineBytes) throw brokenAnswer('wrote a line that is too long')
      held.push(piece)
      if (end === -1) continue
      if (end + 1 < chunk.length) this.#rest = chunk.subarray(end + 1)
      return parseLine(Buffer.concat(held))
    }
  }

  /** The next line as a header. @throws BerthError what the program refused, or why there is no header. */
  async header (): Promise<SuccessHeader> {
    const fields = await this.line()
    if (!fields) throw await this.#lost()
    const header = parseHeader(fields)
    if (!header.ok) throw problemError(header)
    return header
  }

  /**
   * Sends what comes next of its output to a connection, inside the kernel; resolves when all of it is there, and the program has ended well.
   *
   * @param begin writes what was read already, and resolves when it has left this process.
   * @throws BerthError why not all of it is there.
   */
  async sendTo (sink: Socket, options: { bytes: number, stallMs: number, begin: (held: Buffer) => Promise<void> }): Promise<void> {
    const { child } = this.#placed.attached
    const { bytes, stallMs, begin } = options
    const held = Buffer.concat([...this.#rest ? [this.#rest] : [], ...holdReading(child.stdout as Socket)]).subarray(0, bytes)
    this.#rest = undefined
    await begin(held)
    const outcome = await this.#splice({ source: child.stdout as Socket, sink, bytes: bytes - held.length, isFramed: false, stallMs })
    if (outcome === 'source_stalled') throw programSilent(stallMs)
    if (outcome.startsWith('sink')) throw clientGone()
    if (outcome !== 'done') throw brokenAnswer('ended before all of the file had come; it may have been cut meanwhile')
    const exitCode = await this.#ended
    this.#throwFailure()
    if (exitCode !== 0) throw brokenAnswer('ended before it was done')
  }

  /**
   * Takes its framed input from a connection, inside the kernel, all but the last frame.
   *
   * @throws BerthError why not all of it came. Where the program takes no more, its answer says why.
   */
  async takeFrom (source: Socket, options: { bytes: number, stallMs: number }): Promise<void> {
    const outcome = await this.#splice({ source, sink: this.stdin as Socket, isFramed: true, ...options })
    if (outcome === 'source_stalled') throw bodyStalled()
    if (outcome === 'sink_stalled') throw programSilent(options.stallMs)
    if (outcome === 'source_ended' || outcome === 'failed') throw clientGone()
  }

  async #splice (options: SpliceOptions): Promise<SpliceOutcome> {
    this.#throwFailure()
    const splice = startSplice(options)
    this.#killSplice = splice.kill
    const outcome = await splice.ended
    this.#killSplice = undefined
    this.#throwFailure()
    return outcome
  }

  /** Waits until the program has ended by itself, and well. */
  async end (): Promise<void> {
    while (await this.read()) { /* what it says beyond what was asked is nobody's */ }
    const exitCode = await this.#ended
    this.#throwFailure()
    if (exitCode !== 0) throw brokenAnswer('ended before it was done')
  }

  /** Ends it, with time to undo what it began; killed when it does not. Resolves when nothing is left of it. */
  close (): Promise<void> {
    return this.#closed ??= this.#close()
  }

  async #close (): Promise<void> {
    clearInterval(this.#watch)
    this.#options.signal.removeEventListener('abort', this.#onAbort)
    const { child } = this.#placed.attached
    this.#killSplice?.()
    // The end of its input, and a pipe that nobody reads, are how it learns that nobody waits.
    child.stdin.destroy()
    child.stdout.destroy()
    if (!this.#options.isKilledAtOnce) await raceWithDelay(undoMs, [this.#ended])
    if (!this.#hasEnded) {
      await this.#placed.kill().catch(() => {})
      await raceWithDelay(killMs, [this.#ended])
    }
    if (!this.#hasEnded) child.kill('SIGKILL')
    await this.#ended
    child.stderr.destroy()
  }

  #onAbort = () => this.#fail(this.#options.signal.reason)

  /** The first reason is the one that is told. */
  #fail (reason: unknown): void {
    this.#failure ??= reason
    void this.close().catch(() => {})
  }

  #throwFailure (): void {
    if (this.#failure !== undefined) throw this.#failure
  }

  /** Looks now and then whether the program is waited for in vain. */
  #look (): void {
    if (this.#waitingSinceMs === undefined) return
    const waitedMs = performance.now() - this.#waitingSinceMs
    if (this.#hasEnded && waitedMs > drainMs) this.#placed.attached.child.stdout.destroy()
    else if (this.#silenceMs !== undefined && waitedMs > this.#silenceMs) this.#fail(programSilent(this.#silenceMs))
  }

  async #lost (): Promise<unknown> {
    await raceWithDelay(killMs, [this.#ended])
    return this.#failure ?? brokenAnswer('ended before it had answered')
  }
}
