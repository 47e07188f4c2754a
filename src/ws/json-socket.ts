import type { WebSocket } from 'ws'
import { BerthError, toBerthError } from '../errors.ts'
import { ChangeSignal } from '../lib/change-signal.ts'
import { closeCodeOf, messageNotTaken, normalClosure } from './close-codes.ts'

export interface SocketLimits {
  /** A peer that takes nothing for this long while something waits for it is cut off, in milliseconds. */
  stallMs: number
  /** How often it is looked whether the peer may stay, in milliseconds. */
  admissionCheckMs: number
  /** Between two pings; a peer that answers neither of two, and takes nothing either, is gone. In milliseconds. */
  pingMs: number
  /** Sending waits while this much or more waits for the peer, in bytes. */
  bufferedBytes: number
  /** How long a peer may take to answer that it was closed where it does not come to it by itself, in milliseconds. */
  farewellMs: number
}

export const defaultSocketLimits: Readonly<SocketLimits> = Object.freeze({
  stallMs: 60_000,
  pingMs: 30_000,
  admissionCheckMs: 1000,
  // A block of a log: more is no faster to one follower (what the kernel holds is enough), and costs as much for each of a thousand.
  bufferedBytes: 64 * 1024,
  farewellMs: 1000,
})

export interface JsonSocketOptions {
  limits: SocketLimits
  /** Aborted when the server ends: the peer is told, by the code of the reason, and the socket closed. */
  closing: AbortSignal
  /** Aborted by the socket once there is no use in sending: the peer is gone, or is being sent away. */
  over: AbortController
  /** Called once nothing of the connection is left. */
  onClosed: () => void
  /** Whether what the peer came in with is still good; once it is not, it is sent away. Always when absent. */
  mayStay?: (() => boolean) | undefined
  /**
   * What the peer sends, one after the other: while one is dealt with, nothing more is read from the connection. Rejecting closes it
   * at once, with the code of the error. Without it nothing is taken, and who sends is closed with 1003.
   */
  onMessage?: ((data: Buffer, isBinary: boolean) => Promise<void>) | undefined
  log: { error: (facts: object, message: string) => void }
}

const maxMissedPings = 2

interface Message {
  data: Buffer
  isBinary: boolean
}

/**
 * A WebSocket on which JSON goes out in text frames, a message in each, and bytes in binary ones. Whoever sends waits until the
 * peer has taken enough, so that a slow one costs `bufferedBytes` and one message.
 */
export class JsonSocket {
  readonly #socket: WebSocket
  readonly #options: JsonSocketOptions
  readonly #over: AbortController
  /** The peer has taken something, or never will. */
  readonly #taken = new ChangeSignal()
  readonly #pings: NodeJS.Timeout
  readonly #admissionChecks: NodeJS.Timeout | undefined
  #missedPings = 0
  /** What came while a message was dealt with: no more than was read at once. */
  #inbox: Message[] = []
  #isTaking = false
  /** How many wait for room. */
  #waiting = 0
  #stall: NodeJS.Timeout | undefined
  #farewell: NodeJS.Timeout | undefined

  constructor (socket: WebSocket, options: JsonSocketOptions) {
    this.#socket = socket
    this.#options = options
    this.#over = options.over
    const { limits, closing, onClosed } = options
    const stop = () => {
      const why = closing.reason instanceof BerthError ? closing.reason : stopping
      this.#leave(closeCodeOf(why), why.code)
    }
    socket.on('error', () => {}) // A close follows, which says all that is of use here.
    socket.on('pong', () => { this.#missedPings = 0 })
    socket.on('ping', data => {
      this.#missedPings = 0
      if (socket.bufferedAmount < limits.bufferedBytes) socket.pong(data)
    })
    socket.on('message', (data, isBinary) => this.#receive({ data: data as Buffer, isBinary }))
    // Paused, it would not hear the peer say that it has heard.
    this.#over.signal.addEventListener('abort', () => socket.resume(), { once: true })
    socket.once('close', () => {
      closing.removeEventListener('abort', stop)
      clearInterval(this.#pings)
      clearInterval(this.#admissionChecks)
      clearTimeout(this.#farewell)
      this.#over.abort()
      onClosed()
    })
    this.#pings = setInterval(() => this.#ping(), limits.pingMs)
    const { mayStay } = options
    this.#admissionChecks = mayStay && setInterval(() => { if (!mayStay()) this.#leave(closeCodeOf(unwelcome), unwelcome.code) }, limits.admissionCheckMs)
    if (closing.aborted) stop()
    else closing.addEventListener('abort', stop, { once: true })
  }

  /**
   * Sends one message, or the bytes of one that is JSON already, which several sockets may share. Resolves once there is room
   * for the next, or there is no use in it. Never rejects.
   */
  async send (message: object | Buffer): Promise<void> {
    await this.#send(Buffer.isBuffer(message) ? message : JSON.stringify(message), false)
  }

  /** Sends bytes as they are, in one binary frame. Resolves once all of them have left, and may be written over, or there is no use in it. Never rejects. */
  async sendBytes (bytes: Buffer): Promise<void> {
    await this.#send(bytes, true)
    await this.#whileBuffered(1)
  }

  /** Closes in good order: all that was sent is taken before. */
  async end (code = normalClosure, reason = ''): Promise<void> {
    await this.#whileBuffered(1)
    if (this.#over.signal.aborted) return
    this.#over.abort()
    this.#socket.close(code, reason)
  }

  /** Tells the peer of an error, and closes with the code of its kind. */
  async fail (error: unknown): Promise<void> {
    const known = this.#know(error)
    const { code, message } = known
    await this.send({ type: 'error', code, message })
    await this.end(closeCodeOf(known), code)
  }

  /** The error as it may be told; what it hides is in the log. */
  #know (error: unknown): BerthError {
    const known = toBerthError(error)
    if (known.kind === 'internal') this.#options.log.error({ err: known.cause ?? known }, 'socket failed')
    return known
  }

  async #send (data: Buffer | string, binary: boolean): Promise<void> {
    if (this.#over.signal.aborted) return
    this.#socket.send(data, { binary }, this.#onTaken)
    await this.#whileBuffered(this.#options.limits.bufferedBytes)
  }

  #receive (message: Message): void {
    this.#missedPings = 0
    if (this.#over.signal.aborted) return
    const { onMessage } = this.#options
    if (!onMessage) return this.#leave(messageNotTaken, 'no_messages_taken')
    this.#inbox.push(message)
    if (!this.#isTaking) void this.#take(onMessage)
  }

  /** Deals with what has come. Pausing costs nothing: Node goes on to read, but no more than its own small buffer holds. */
  async #take (onMessage: NonNullable<JsonSocketOptions['onMessage']>): Promise<void> {
    this.#isTaking = true
    this.#socket.pause()
    try {
      while (this.#inbox.length > 0) {
        const messages = this.#inbox
        this.#inbox = []
        for (const { data, isBinary } of messages) {
          if (this.#over.signal.aborted) return
          await onMessage(data, isBinary)
        }
      }
    } catch (error) {
      const known = this.#know(error)
      this.#leave(closeCodeOf(known), known.code)
    } finally {
      this.#isTaking = false
      this.#socket.resume()
    }
  }

  /** Until less than so many bytes wait for the peer. */
  async #whileBuffered (bytes: number): Promise<void> {
    if (this.#socket.bufferedAmount < bytes) return
    if (this.#waiting++ === 0) this.#stall = setTimeout(() => this.#leave(closeCodeOf(stalled), stalled.code), this.#options.limits.stallMs)
    while (this.#socket.bufferedAmount >= bytes && !this.#over.signal.aborted) await this.#taken.wait(this.#over.signal)
    if (--this.#waiting > 0) return
    clearTimeout(this.#stall)
    this.#stall = undefined
  }

  /** One for all messages: it is called once for each. */
  readonly #onTaken = (error?: Error | null): void => {
    if (error) return
    this.#missedPings = 0
    this.#stall?.refresh()
    this.#taken.notify()
  }

  #ping (): void {
    // Of one whose message is dealt with nothing is read, an answer neither; where it is gone, this ping finds out.
    if (!this.#socket.isPaused && this.#missedPings++ >= maxMissedPings) return this.#socket.terminate()
    if (this.#socket.readyState === this.#socket.OPEN) this.#socket.ping()
  }

  /** Says so where it can still be said, and waits for no more than a word in answer. */
  #leave (code: number, reason: string): void {
    this.#over.abort()
    this.#socket.close(code, reason)
    this.#farewell ??= setTimeout(() => this.#socket.terminate(), this.#options.limits.farewellMs)
  }
}

const stopping = new BerthError('unavailable', 'host_stopping', 'the daemon is shutting down')
const unwelcome = new BerthError('unauthenticated', 'token_ended', 'the token was revoked or has run out')
const stalled = new BerthError('timed_out', 'follower_stalled', 'nothing was taken for too long')
