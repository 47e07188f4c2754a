/** Programs of the host at pseudo-terminals. */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { SocketConstructorOpts } from 'node:net'
import { ReadStream } from 'node:tty'
import { BerthError } from '../errors.ts'
import { cleanEnv, findProgram } from './command.ts'
import { setCloseOnExec } from './libc.ts'
import { findProcess, signalProcess, type ProcessIdentity } from './process.ts'
import type { ProgramEnd } from './spawn.ts'

/** The part of node-pty that is compiled, and that its JavaScript stands on. */
interface PtyCalls {
  fork: (file: string, args: readonly string[], env: readonly string[], cwd: string, cols: number, rows: number, uid: number, gid: number,
    isUtf8: boolean, helperPath: string, onExit: (exitCode: number, signalNumber: number) => void) => { fd: number, pid: number, pty: string }
  resize: (fd: number, cols: number, rows: number) => void
}

// node-pty's own Terminal gives up what is unread 200 ms after the exit, says nothing of an exit before its socket has closed, and spins
// on a program that does not read: only its compiled calls are used.
const { module: calls } = createRequire(import.meta.url)('node-pty/lib/utils.js').loadNativeModule('pty') as { module: PtyCalls }

/** What a program at a pseudo-terminal sees beside the clean environment. */
const terminalType = 'xterm-256color'
// The kernel hands out no more than 4095 or 4096 bytes of a terminal at once; fewer, and there was no more.
const fullReadBytes = 4095
// Other terminals wait for so much.
const maxReadOnBytes = 64 * 1024
const chunkBytes = 64 * 1024
/** What the output of all terminals is read into, one chunk after the other: a buffer of its own for each costs more than all else that is done with it. */
const lent = Buffer.allocUnsafeSlow(chunkBytes)
// The kernel holds less than 100 KiB for a reader; a program left behind that writes on and on must not keep its terminal from ending.
const maxDrainBytes = 1024 * 1024

export interface PtyOptions {
  /** Program by its path, and its arguments. */
  argv: readonly string[]
  cols: number
  rows: number
  /** The chunk is lent: what comes next is read into its place. */
  onOutput: (chunk: Buffer) => void
  /** After all output of the program. */
  onEnd: (end: ProgramEnd) => void
}

/**
 * A program that leads a session of its own at a pseudo-terminal. No output is lost: the terminal stays open until the program has ended,
 * and is then read until it is dry. Output is read as it comes: its receiver must not keep it.
 */
export class Pty {
  readonly #fd: number
  readonly #identity: ProcessIdentity
  readonly #stream: ReadStream
  /** Keeps the terminal open while nobody else has it open, which would read as its end. */
  readonly #slaveFd: number
  #isOpen = false

  /**
   * Starts a program with the clean environment in /.
   *
   * @throws BerthError unavailable `program_not_found` when there is no such program, `no_pty` when there is no pseudo-terminal for it.
   */
  constructor ({ argv: [file = '', ...args], cols, rows, onOutput, onEnd }: PtyOptions) {
    const path = findProgram(file)
    if (!path) throw new BerthError('unavailable', 'program_not_found', `the program ${file} cannot be executed on this host; run: berth doctor`)
    const env = Object.entries({ ...cleanEnv, TERM: terminalType }).map(([name, value]) => `${name}=${value}`)
    // Signals of the child cannot arrive before this turn of the event loop is over.
    const { fd, pid, pty } = fork(() => calls.fork(path, args, env, '/', cols, rows, -1, -1, true, '', (exitCode, signalNumber) => {
      if (!this.#isOpen) return
      this.#drain(onOutput)
      this.#close()
      onEnd(signalNumber === 0 ? { exitCode } : { signalNumber })
    }))
    // A program started later would keep the terminal of this one open.
    setCloseOnExec(fd)
    this.#fd = fd
    this.#identity = findProcess(pid) ?? { pid, startTicks: '' }
    this.#slaveFd = orEnd(fd, this.#identity, () => openSync(pty, constants.O_RDWR | constants.O_NOCTTY))
    const take = (bytes: number) => {
      onOutput(lent.subarray(0, bytes))
      if (bytes >= fullReadBytes) this.#readOn(onOutput)
      return true
    }
    // Node passes options of sockets on, and its types do not know it (lib/tty.js).
    this.#stream = new (ReadStream as unknown as new (fd: number, options: SocketConstructorOpts) => ReadStream)(fd, { onread: { buffer: lent, callback: take } })
    this.#stream.resume()
    this.#isOpen = true
    // The program's end is told by its exit.
    this.#stream.on('error', () => {})
  }

  get pid (): number {
    return this.#identity.pid
  }

  /** Writes input and answers how many bytes were taken: fewer than there are, or none, while the program does not read. */
  write (bytes: Uint8Array): number {
    if (!this.#isOpen) return bytes.length
    try {
      return writeSync(this.#fd, bytes)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return 0
      return bytes.length
    }
  }

  /** One that has ended is fine. */
  resize (cols: number, rows: number): void {
    if (this.#isOpen) calls.resize(this.#fd, cols, rows)
  }

  /** Signals the program, and wakes it where it was stopped; one that has ended is fine. */
  signal (signal: NodeJS.Signals): void {
    if (!this.#isOpen) return
    signalProcess(this.#identity, signal)
    signalProcess(this.#identity, 'SIGCONT')
  }

  /** Reads what came meanwhile: it costs half of what it does to have the event loop find it. */
  #readOn (onOutput: (chunk: Buffer) => void): void {
    for (let bytes = fullReadBytes, left = maxReadOnBytes; bytes >= fullReadBytes && left > 0; left -= bytes) {
      bytes = readNow(this.#fd, lent)
      if (bytes > 0) onOutput(lent.subarray(0, bytes))
    }
  }

  /** Reads what is there; EAGAIN says that there is no more, for the kernel first moves on all that was written. */
  #drain (onOutput: (chunk: Buffer) => void): void {
    for (let drained = 0; drained < maxDrainBytes;) {
      const bytes = readNow(this.#fd, lent)
      if (bytes === 0) return
      drained += bytes
      onOutput(lent.subarray(0, bytes))
    }
  }

  #close (): void {
    this.#isOpen = false
    // Closes the descriptor too, and so hangs up whoever is left at the terminal.
    this.#stream.destroy()
    closeSync(this.#slaveFd)
  }
}

function orEnd<T> (fd: number, identity: ProcessIdentity, act: () => T): T {
  try {
    return act()
  } catch (error) {
    signalProcess(identity, 'SIGKILL')
    closeSync(fd)
    throw error
  }
}

function fork<T> (start: () => T): T {
  try {
    return start()
  } catch (cause) {
    throw new BerthError('unavailable', 'no_pty', 'the host has no pseudo-terminal or no process left; end terminals or raise kernel.pty.max', { cause })
  }
}

function readNow (fd: number, buffer: Buffer): number {
  try {
    return readSync(fd, buffer)
  } catch {
    return 0
  }
}
