import { once } from 'node:events'
import type { WebSocket } from 'ws'
import { BerthError } from '../errors.ts'
import type { AttachCommand, AttachEvent } from '../schemas/terminal.ts'
import { CloseError } from './close-error.ts'

// Beyond the first nothing more is read from the connection until less than the second is left.
const highWaterBytes = 1024 ** 2
const lowWaterBytes = 256 * 1024
// The daemon takes messages of 64 KiB.
const largestInputBytes = 32 * 1024
// A peer that vanished without a word is noticed after this many pings; a daemon that reads nothing while a program takes no input still sends its own, every 30 s.
const pingMs = 15_000
const maxMissedPings = 3

/** One attachment to a terminal, read no faster than it is used: output as it comes, and what the daemon says. */
export class AttachSocket implements Disposable {
  readonly #socket: WebSocket
  readonly #pings: NodeJS.Timeout
  #items: Array<Buffer | AttachEvent> = []
  #heldBytes = 0
  #missedPings = 0
  #end: { code: number, reason: string } | undefined
  #wake: (() => void) | undefined
  #failure: Error | undefined

  /** Of a socket that `BerthClient.socket` opened. */
  constructor (socket: WebSocket) {
    this.#socket = socket
    const live = () => { this.#missedPings = 0 }
    socket.on('error', error => { this.#failure ??= error })
    socket.on('message', (data, isBinary) => this.#take(data as Buffer, isBinary))
    socket.on('ping', live).on('pong', live)
    socket.once('close', (code, reason) => {
      clearInterval(this.#pings)
      this.#end = { code, reason: reason.toString() }
      this.#wake?.()
    })
    this.#pings = setInterval(() => this.#ping(), pingMs)
    socket.resume()
  }

  /** How many bytes of input wait to be sent. */
  get bufferedBytes (): number {
    return this.#socket.bufferedAmount
  }

  /** All that comes, until the socket is closed; ends then, whatever the reason. @throws BerthError bad_answer. */
  async * items (): AsyncGenerator<Buffer | AttachEvent> {
    for (;;) {
      const items = this.#items
      this.#items = []
      for (const item of items) {
        yield item
        if (Buffer.isBuffer(item)) this.#release(item.length)
      }
      if (this.#items.length > 0) continue
      if (this.#failure instanceof BerthError) throw this.#failure
      if (this.#end) return
      await new Promise<void>(resolve => { this.#wake = resolve })
      this.#wake = undefined
    }
  }

  /** Why it was closed; undefined while it is open. */
  get closeError (): CloseError | undefined {
    return this.#end && new CloseError(this.#end.code, this.#end.reason)
  }

  /** Resolves when the bytes have left, or the socket is closed. */
  async sendInput (bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; at += largestInputBytes) {
      await new Promise<void>(resolve => this.#socket.send(bytes.subarray(at, at + largestInputBytes), { binary: true }, () => resolve()))
    }
  }

  sendCommand (command: AttachCommand): void {
    this.#socket.send(JSON.stringify(command), () => {})
  }

  /** Closes in good order, or at once where the peer does not answer. */
  async close (): Promise<void> {
    if (this.#end) return
    const closed = once(this.#socket, 'close')
    this.#socket.resume()
    this.#socket.close(1000)
    const timer = setTimeout(() => this.#socket.terminate(), 500)
    await closed
    clearTimeout(timer)
  }

  [Symbol.dispose] (): void {
    this.#socket.terminate()
  }

  #take (data: Buffer, isBinary: boolean): void {
    this.#missedPings = 0
    const item = isBinary ? data : this.#parse(data)
    if (item === undefined) return
    this.#items.push(item)
    if (Buffer.isBuffer(item)) {
      this.#heldBytes += item.length
      if (this.#heldBytes >= highWaterBytes) this.#socket.pause()
    }
    this.#wake?.()
  }

  #release (bytes: number): void {
    this.#heldBytes -= bytes
    if (this.#socket.isPaused && this.#heldBytes < lowWaterBytes) this.#socket.resume()
  }

  #parse (data: Buffer): AttachEvent | undefined {
    try {
      return JSON.parse(data.toString('utf8')) as AttachEvent
    } catch (cause) {
      this.#failure = new BerthError('internal', 'bad_answer', 'the daemon sent a message that is not JSON; do BERTH_URL or BERTH_SOCKET point to berth?', { cause })
      this.#socket.terminate()
      return undefined
    }
  }

  #ping (): void {
    // Of one that is paused nothing is read, an answer neither.
    if (!this.#socket.isPaused && this.#missedPings++ >= maxMissedPings) return this.#socket.terminate()
    if (this.#socket.readyState === this.#socket.OPEN) this.#socket.ping()
  }
}
