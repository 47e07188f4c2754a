import { setTimeout as delay } from 'node:timers/promises'
import { BerthError } from '../errors.ts'
import type { AttachEvent, TerminalRole } from '../schemas/terminal.ts'
import { AttachSocket } from './attach-socket.ts'
import type { EndSignal } from './cli-context.ts'
import { isKind } from './client.ts'
import { CloseError } from './close-error.ts'
import { ConnectionError } from './connection-error.ts'
import { ConnectionNotice } from './connection-notice.ts'
import { DetachKeys } from './detach-keys.ts'
import { InterruptedError } from './interrupts.ts'
import { RawTerminal } from './raw-terminal.ts'
import type { Shell } from './shell.ts'
import { describeSpan } from './units.ts'

export interface TerminalSessionOptions {
  sandboxId: string
  terminalId: string
  role: TerminalRole
  /** Whether what is typed here goes inside. */
  takesInput: boolean
  detachKeys: Buffer
  /** How long to wait for a lost connection to come back, in milliseconds. */
  reconnectMs: number
  /** Offset of the first byte to show; without it the present screen is painted. */
  since?: number | undefined
}

type EventOf<Kind extends AttachEvent['type']> = Extract<AttachEvent, { type: Kind }>
/** How it came that the session is over. */
export type SessionEnd = EventOf<'exit'> | { type: 'detached' }

const firstPauseMs = 50
const lastPauseMs = 2000
const maxUnsentBytes = 256 * 1024
// Between two sizes, so that a program sees both and draws all of its screen again.
const nudgeMs = 100

/** Why a session is left on purpose. */
class DetachedError extends Error {}

/**
 * One person at one terminal: keys go in, output comes out, over as many connections as it takes. What was missed while there was none
 * is asked for by its offset. The terminal here is given back in every case.
 *
 * @throws BerthError, ConnectionError, InterruptedError for SIGINT, SIGTERM and SIGHUP; BrokenPipeError.
 */
export async function runTerminalSession (shell: Shell, options: TerminalSessionOptions): Promise<SessionEnd> {
  const raw = options.takesInput ? await RawTerminal.withKeys(shell.context) : new RawTerminal(shell.context)
  return await new TerminalSession(shell, options, raw).run()
}

class TerminalSession {
  readonly #shell: Shell
  readonly #options: TerminalSessionOptions
  readonly #left = new AbortController()
  readonly #raw: RawTerminal
  readonly #notice: ConnectionNotice
  #socket: AttachSocket | undefined
  #offset: number | undefined
  #isConnected = false
  #isPainted = false
  #error: EventOf<'error'> | undefined

  constructor (shell: Shell, options: TerminalSessionOptions, raw: RawTerminal) {
    this.#shell = shell
    this.#options = options
    this.#offset = options.since
    this.#raw = raw
    this.#notice = new ConnectionNotice({ output: shell.output, isRaw: () => this.#raw.isRaw })
  }

  async run (): Promise<SessionEnd> {
    using cleanup = new DisposableStack()
    cleanup.use(this.#raw)
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) cleanup.defer(this.#shell.context.onSignal(signal, () => this.#leave(signal)))
    this.#raw.onResize(() => this.#sendSize())
    cleanup.defer(() => void this.#notice.back())
    if (this.#options.takesInput) cleanup.defer(this.#readInput())
    try {
      return await this.#stayAttached()
    } catch (error) {
      if (this.#left.signal.aborted && this.#left.signal.reason instanceof DetachedError) return { type: 'detached' }
      throw this.#left.signal.aborted ? this.#left.signal.reason : error
    } finally {
      await this.#socket?.close()
    }
  }

  /** The terminal is given back at once: what comes after may take its time. */
  #leave (signal: EndSignal): void {
    this.#left.abort(new InterruptedError(signal))
    this.#raw.restore()
  }

  async #stayAttached (): Promise<SessionEnd> {
    const { signal } = this.#left
    let pauseMs = firstPauseMs
    let lostAt: number | undefined
    for (;;) {
      const wasConnected = this.#isConnected
      this.#isConnected = false
      try {
        const end = await this.#attachOnce()
        if (end) return end
      } catch (error) {
        signal.throwIfAborted()
        if (isKind(error, 'invalid_argument') && (error as BerthError).code === 'invalid_offset' && this.#offset !== undefined) this.#offset = undefined
        else if (!isPassing(error) || (!this.#isConnected && !wasConnected && lostAt === undefined)) throw error
        if (this.#isConnected) lostAt = undefined
        lostAt ??= performance.now()
        if (performance.now() - lostAt >= this.#options.reconnectMs) throw this.#givenUp(error)
      }
      if (this.#isConnected) pauseMs = firstPauseMs
      this.#notice.lost(`connection lost, waiting for ${this.#shell.client().address} to come back`)
      await delay(pauseMs * (1 + Math.random()), undefined, { signal })
      pauseMs = Math.min(lastPauseMs, pauseMs * 2)
    }
  }

  /** One connection. How the terminal ended; throws what broke the connection. */
  async #attachOnce (): Promise<SessionEnd> {
    const { sandboxId, terminalId, role } = this.#options
    const size = role === 'write' ? this.#raw.size : undefined
    const { signal } = this.#left
    const path = `/v1/sandboxes/${sandboxId}/terminals/${terminalId}/attach`
    using socket = new AttachSocket(await this.#shell.client().socket(path, { role, since: this.#offset, ...size }, signal))
    this.#socket = socket
    const end = () => void socket.close()
    signal.addEventListener('abort', end, { once: true })
    try {
      for await (const item of socket.items()) {
        signal.throwIfAborted()
        if (Buffer.isBuffer(item)) await this.#show(item)
        else if (item.type === 'exit') return item
        else await this.#take(item)
      }
      signal.throwIfAborted()
      throw this.#closeReason(socket)
    } finally {
      signal.removeEventListener('abort', end)
      this.#socket = undefined
    }
  }

  async #show (bytes: Buffer): Promise<void> {
    if (this.#offset !== undefined) this.#offset += bytes.length
    this.#raw.modes.watch(bytes)
    await this.#shell.output.out(bytes)
  }

  async #take (event: Exclude<AttachEvent, EventOf<'exit'>>): Promise<void> {
    switch (event.type) {
      case 'ready':
        this.#isConnected = true
        this.#offset = event.offset
        this.#error = undefined
        // What lay under the notice only the program can draw again.
        if (this.#notice.back() && event.status === 'running') void this.#nudge()
        return
      case 'gap':
        this.#offset = event.offset
        return
      case 'screen':
        this.#offset = event.offset
        return await this.#paint(event)
      case 'error':
        this.#error = event
        break
      case 'resize':
    }
  }

  /** The screen is as it was asked for: emptied. What the person had on it goes up into what can be scrolled back to. */
  async #paint ({ data }: EventOf<'screen'>): Promise<void> {
    const { size, modes } = this.#raw
    const before = size === undefined ? '' : `${modes.reset()}${this.#isPainted ? '' : '\n'.repeat(size.rows)}\u001b[H\u001b[2J`
    this.#isPainted = true
    modes.watch(data)
    await this.#shell.output.out(before + data)
  }

  #closeReason (socket: AttachSocket): Error {
    const closed = socket.closeError ?? new CloseError(1006, '')
    if (closed.isTransient || !this.#error) return closed
    return new BerthError(closed.kind, this.#error.code, this.#error.message)
  }

  /** Passes on what is typed, no faster than it is taken; what is typed while there is no connection is lost, but for the detach keys. */
  #readInput (): () => void {
    const { stdin, isTty } = this.#shell.context
    const isLooking = this.#options.role === 'read'
    const send = (bytes: Buffer) => {
      // Of one who only looks this is all that a Ctrl-C can mean.
      if (isLooking && bytes.includes(ctrlC)) this.#left.abort(new DetachedError())
      const socket = this.#socket
      if (isLooking || !socket) return
      const sent = socket.sendInput(bytes)
      if (socket.bufferedBytes < maxUnsentBytes) return
      stdin.pause()
      void sent.then(() => { if (!this.#left.signal.aborted) stdin.resume() })
    }
    const keys = new DetachKeys({ keys: this.#options.detachKeys, onInput: send, onDetach: () => this.#left.abort(new DetachedError()) })
    const take = (chunk: Buffer | string) => isTty.stdin ? keys.take(Buffer.from(chunk as Buffer)) : send(Buffer.from(chunk as Buffer))
    stdin.on('data', take)
    return () => {
      keys.close()
      stdin.off('data', take)
      stdin.pause()
    }
  }

  #sendSize (lessRows = 0): void {
    const { size } = this.#raw
    if (size && this.#options.role === 'write') this.#socket?.sendCommand({ type: 'resize', cols: size.cols, rows: Math.max(1, size.rows - lessRows) })
  }

  async #nudge (): Promise<void> {
    this.#sendSize(1)
    await delay(nudgeMs, undefined, { ref: false })
    this.#sendSize()
  }

  #givenUp (cause: unknown): BerthError {
    const { reconnectMs, sandboxId, terminalId } = this.#options
    const message = `the connection was lost and did not come back within ${describeSpan(reconnectMs)} (${(cause as Error).message}); the terminal goes on without you: berth attach ${sandboxId} ${terminalId}`
    return new BerthError('unavailable', 'attach_connection_lost', message, { cause })
  }
}

const ctrlC = 3

/** Whether to come back after this: a daemon that restarts says so, refuses, or is not there. */
function isPassing (error: unknown): boolean {
  return error instanceof ConnectionError || (error instanceof CloseError && error.isTransient) || isKind(error, 'unavailable')
}
