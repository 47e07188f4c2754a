import type { Socket } from 'node:net'
import { BerthError } from '../../../errors.ts'
import { encodeAdvancedFrame, encodeJsonFrame, encodeOutputHeader, encodeTakenFrame, FrameReader, type PtyFrame } from './pty-frames.ts'
import { frameKinds, type PtyAnswer, type PtyEnd } from './pty-protocol.ts'

/** Output is left out while the daemon has not read so many bytes of what it was sent. */
export const maxUnreadBytes = 1024 * 1024
// Far more than answers and ends come to with a daemon that reads.
const maxUnreadInAllBytes = 64 * 1024 ** 2

export interface PtyConnectionOptions {
  socket: Socket
  /** @throws BerthError when the frame is against the protocol: the connection is closed then. */
  onFrame: (frame: PtyFrame) => void
  /** Where the output of a terminal is, for one whose output was left out. */
  offsetOf: (terminalId: string) => number | undefined
  onClosed: (error: Error | undefined) => void
}

/** The pty-host's end of a daemon's connection: which terminals it hears of, and what it was not sent because it read too slowly. */
export class PtyConnection {
  readonly #options: PtyConnectionOptions
  readonly #socket: Socket
  readonly #reader = new FrameReader()
  readonly #subscriptions = new Set<string>()
  readonly #behind = new Set<string>()

  constructor (options: PtyConnectionOptions) {
    this.#options = options
    this.#socket = options.socket
    let failure: Error | undefined
    this.#socket.on('data', (chunk: Buffer) => this.#take(chunk))
    this.#socket.on('drain', () => this.#catchUp())
    this.#socket.on('error', error => { failure = error })
    this.#socket.on('end', () => this.#socket.destroy())
    this.#socket.on('close', () => options.onClosed(failure))
  }

  answer (terminalId: string, answer: PtyAnswer): void {
    this.#send(encodeJsonFrame(frameKinds.answer, terminalId, answer))
  }

  taken (terminalId: string, bytes: number): void {
    this.#send(encodeTakenFrame(terminalId, bytes))
  }

  /** `release` is called when nothing of the bytes is needed any more. */
  output (terminalId: string, offset: number, bytes: Buffer, release: () => void): void {
    if (!this.#subscriptions.has(terminalId)) return release()
    if (this.#behind.has(terminalId) || this.#socket.writableLength > maxUnreadBytes) {
      this.#behind.add(terminalId)
      return release()
    }
    this.#socket.cork()
    this.#socket.write(encodeOutputHeader(terminalId, offset, bytes.length))
    this.#socket.write(bytes, release)
    this.#socket.uncork()
  }

  ended (terminalId: string, end: PtyEnd): void {
    if (this.#behind.delete(terminalId)) this.#send(encodeAdvancedFrame(terminalId, end.offset))
    this.#send(encodeJsonFrame(frameKinds.ended, terminalId, end))
  }

  subscribe (terminalId: string): void {
    this.#subscriptions.add(terminalId)
    this.#behind.delete(terminalId)
  }

  unsubscribe (terminalId: string): void {
    this.#subscriptions.delete(terminalId)
    this.#behind.delete(terminalId)
  }

  close (error?: Error): void {
    this.#socket.destroy(error)
  }

  #take (chunk: Buffer): void {
    try {
      this.#reader.push(chunk, frame => {
        if (!this.#socket.destroyed) this.#options.onFrame(frame)
      })
    } catch (error) {
      this.close(error as Error)
    }
  }

  #catchUp (): void {
    for (const terminalId of this.#behind) {
      const offset = this.#options.offsetOf(terminalId)
      if (offset !== undefined) this.#send(encodeAdvancedFrame(terminalId, offset))
    }
    this.#behind.clear()
  }

  #send (frame: Buffer): void {
    if (this.#socket.destroyed) return
    if (this.#socket.writableLength > maxUnreadInAllBytes) {
      this.close(new BerthError('exhausted', 'peer_stalled', 'the daemon does not read what it asked for'))
      return
    }
    this.#socket.write(frame)
  }
}
