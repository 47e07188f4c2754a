import { closeSync, readSync, writeSync } from 'node:fs'
import { getSystemErrorName } from 'node:util'
import { Worker } from 'node:worker_threads'
import { growReceiveBuffer, makePipe, openNetfilterSocket, setNonBlocking } from './libc.ts'
import { decodeDatagram, encodeBind, nflogControl, type FromNflogWorker, type LoggedPacket, type NflogWorkerSettings } from './nflog-protocol.ts'

export type { LoggedPacket }

export interface NflogOptions {
  onPacket: (packet: LoggedPacket) => void
  /** Packets are missing: more came than could be read. */
  onDropped?: () => void
  /** The thread that reads has failed; nothing more comes. */
  onFailed?: (error: unknown) => void
}

const receiveBufferBytes = 1024 * 1024
// It takes 50 to 200 ms to start; an installation that cannot be read never starts.
const threadStartMs = 20_000

/**
 * Reads what the packet filter of this network namespace logs to an NFLOG group (`log group N`). A group has one reader. A thread of its
 * own waits for packets and takes them apart; it runs when `open` returns, so the process may then give up its privileges.
 */
export class NflogReader {
  readonly #options: NflogOptions
  readonly #control = new Int32Array(new SharedArrayBuffer(12))
  readonly #socketFd: number
  readonly #wakeFds: { readFd: number, writeFd: number }
  readonly #worker: Worker
  readonly #ended = Promise.withResolvers<void>()
  #isClosing = false

  private constructor (socketFd: number, options: NflogOptions) {
    this.#options = options
    this.#socketFd = socketFd
    this.#wakeFds = makePipe()
    const workerData: NflogWorkerSettings = { fd: socketFd, wakeFd: this.#wakeFds.readFd, control: this.#control }
    this.#worker = new Worker(new URL('./nflog-worker.ts', import.meta.url), { workerData, name: 'nflog' })
    this.#worker.on('message', (message: FromNflogWorker) => this.#take(message))
    this.#worker.on('error', (error: unknown) => { if (!this.#isClosing) this.#options.onFailed?.(error) })
    this.#worker.on('exit', () => this.#release())
    // process.exit waits for threads, and this one waits for the kernel.
    process.on('exit', this.#stop)
  }

  /**
   * Takes hold of the group, for which CAP_NET_ADMIN is needed, and waits for the thread to run.
   *
   * @throws Error with `code`: EPERM without the capability, and where another process reads the group.
   */
  static open (group: number, options: NflogOptions): NflogReader {
    const fd = openNetfilterSocket()
    try {
      growReceiveBuffer(fd, receiveBufferBytes)
      writeSync(fd, encodeBind(group))
      checkAnswer(fd, group)
      setNonBlocking(fd)
    } catch (error) {
      closeSync(fd)
      throw error
    }
    const reader = new NflogReader(fd, options)
    if (Atomics.wait(reader.#control, nflogControl.isReading, 0, threadStartMs) !== 'timed-out') return reader
    void reader.close()
    throw new Error('the thread that reads the packet filter\'s log does not start')
  }

  /** Gives the group back; no packet is passed on after the call. Idempotent. */
  async close (): Promise<void> {
    this.#isClosing = true
    this.#stop()
    await this.#ended.promise
  }

  #take (message: FromNflogWorker): void {
    Atomics.add(this.#control, nflogControl.messagesTaken, 1)
    if (this.#isClosing) return
    if (message.hasDropped) this.#options.onDropped?.()
    for (const packet of message.packets) this.#options.onPacket(packet)
  }

  readonly #stop = (): void => {
    if (Atomics.exchange(this.#control, nflogControl.isClosing, 1) === 0) writeSync(this.#wakeFds.writeFd, '\0')
  }

  #release (): void {
    process.off('exit', this.#stop)
    // Whoever closes it after its thread has failed finds it closed.
    Atomics.store(this.#control, nflogControl.isClosing, 1)
    for (const fd of [this.#socketFd, this.#wakeFds.readFd, this.#wakeFds.writeFd]) closeSync(fd)
    this.#ended.resolve()
  }
}

/** The kernel answers within the call that asks; a packet that was logged meanwhile may come before. */
function checkAnswer (fd: number, group: number): void {
  const buffer = Buffer.alloc(64 * 1024)
  for (;;) {
    const answer = decodeDatagram(buffer.subarray(0, readSync(fd, buffer))).find(message => message.kind === 'answer')
    if (!answer) continue
    if (answer.errno === 0) return
    const code = getSystemErrorName(-answer.errno)
    throw Object.assign(new Error(`NFLOG group ${group} cannot be read: ${code}`), { code })
  }
}
