import { connect, type Socket } from 'node:net'
import { BerthError } from '../../errors.ts'
import { decodeJson, encodeFrame, encodeJsonFrame, FrameReader, type PtyFrame } from './server/pty-frames.ts'
import { frameKinds, type PtyAnswer, type PtyOperation } from './server/pty-protocol.ts'

export interface PtyHostClientOptions {
  socketPath: string
  /** Every frame but answers, in the order in which they come; its payload is lent. */
  onFrame: (frame: PtyFrame) => void
}

interface Call {
  resolve: (result: unknown) => void
  reject: (error: unknown) => void
  timer: NodeJS.Timeout
}

// Every answer comes within milliseconds; a host that has no time to run anything is not taken for dead.
const answerTimeoutMs = 20_000

const readBytes = 256 * 1024

/** One connection to a pty-host. Requests and input are handled in the order in which they were sent. */
export class PtyHostClient {
  /** Resolves when the connection is gone, whoever ended it. Never rejects. */
  readonly closed: Promise<void>
  readonly #socket: Socket
  readonly #calls = new Map<number, Call>()
  #lastId = 0

  private constructor (socket: Socket, closed: Promise<void>) {
    this.#socket = socket
    this.closed = closed.then(() => {
      for (const id of [...this.#calls.keys()]) this.#take(id)?.reject(ptyHostUnavailable())
    })
  }

  /** Throws an Error with `code` where nobody listens. */
  static async connect ({ socketPath, onFrame }: PtyHostClientOptions): Promise<PtyHostClient> {
    const reader = new FrameReader()
    const take = (chunk: Buffer) => {
      try {
        reader.push(chunk, frame => {
          if (frame.kind !== frameKinds.answer) onFrame(frame)
          else client.#settle(decodeJson(frame) as PtyAnswer)
        })
      } catch (error) {
        // Nothing behind it can be understood.
        socket.destroy(error as Error)
      }
      return true
    }
    // A buffer of its own for each read would have memory collected many times a second while a terminal is flooded.
    const buffer = Buffer.allocUnsafeSlow(readBytes)
    const socket = connect({ path: socketPath, onread: { buffer, callback: bytes => take(buffer.subarray(0, bytes)) } })
    const closed = new Promise<void>(resolve => { socket.once('close', () => resolve()) })
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    // Why it ends is told by `close`, too.
    socket.on('error', () => {})
    // Nothing is answered before it is asked.
    const client = new PtyHostClient(socket, closed)
    return client
  }

  /**
   * Asks, of one terminal or with an empty id of all, and answers what the pty-host does.
   *
   * @throws BerthError unavailable `pty_host_unavailable` where the connection ends before, or nothing comes in time; else with the pty-host's own code.
   */
  request (terminalId: string, operation: PtyOperation): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) return reject(ptyHostUnavailable())
      const id = ++this.#lastId
      const timer = setTimeout(() => { this.#take(id)?.reject(ptyHostUnavailable()) }, answerTimeoutMs).unref()
      this.#calls.set(id, { resolve, reject, timer })
      this.#socket.write(encodeJsonFrame(frameKinds.request, terminalId, { ...operation, id }))
    })
  }

  /** Sends input; of so much as may be under way the caller keeps account. */
  input (terminalId: string, bytes: Uint8Array): void {
    if (!this.#socket.destroyed) this.#socket.write(encodeFrame(frameKinds.input, terminalId, bytes))
  }

  close (): void {
    this.#socket.destroy()
  }

  #settle (answer: PtyAnswer): void {
    const call = this.#take(answer.id)
    if (!call) return
    if ('error' in answer) call.reject(new BerthError('conflict', answer.error.code, answer.error.message))
    else call.resolve(answer.result)
  }

  #take (id: number): Call | undefined {
    const call = this.#calls.get(id)
    clearTimeout(call?.timer)
    this.#calls.delete(id)
    return call
  }
}

export function ptyHostUnavailable (cause?: unknown): BerthError {
  return new BerthError('unavailable', 'pty_host_unavailable', 'the process that holds the terminals of this host does not answer; try again, and see its log if it stays so', { cause })
}
