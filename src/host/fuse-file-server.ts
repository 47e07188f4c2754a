import { closeSync, writeSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import type { Logger } from 'pino'
import type { FuseFile } from './fuse-directory.ts'
import { encodeResend } from './fuse-protocol.ts'
import { controlWords, type FromWorker, type FuseEnd, type ToWorker, type WorkerSettings } from './fuse-worker-messages.ts'
import { makePipe, setNonBlocking } from './libc.ts'

export type { FuseEnd, FuseFile }

export interface FuseFileServerOptions {
  /** /dev/fuse, open for reading and writing and mounted. Closing it is the owner's business. */
  fd: number
  /** Resolves when that range is in the file's `dataPath` and marked in `present`; the reader gets EIO when it rejects. Takes bounded time. */
  onMissing: (name: string, startByte: number, endByte: number) => Promise<void>
  logger: Pick<Logger, 'warn' | 'error'>
}

/**
 * Serves a flat, read-only directory of files on a FUSE mount. What is present is answered by a thread of its own; what is missing is
 * asked for with `onMissing`, any number of reads at a time.
 *
 * The process may die at any instant: readers wait while another holds a copy of `fd`, and the next server on it goes on:
 *
 *     first server   mountFuse · add … · start
 *     next server    add every file that was there · resend · start
 *
 * This process must never touch the mount synchronously, and asynchronously only with enough threads in libuv's pool.
 */
export class FuseFileServer {
  /** Resolves when the thread has ended; rejects when it failed, and then the process had better end for another to take over. */
  readonly ended: Promise<FuseEnd>
  readonly #options: FuseFileServerOptions
  readonly #files = new Map<string, FuseFile>()
  readonly #control = new Int32Array(new SharedArrayBuffer(8))
  readonly #end = Promise.withResolvers<FuseEnd>()
  #worker: Worker | undefined
  #wakeFds: { readFd: number, writeFd: number } | undefined

  constructor (options: FuseFileServerOptions) {
    this.#options = options
    this.ended = this.#end.promise
  }

  /** Starts to answer. The end of the process, by process.exit or else, ends the thread too. */
  start (): void {
    const { fd } = this.#options
    setNonBlocking(fd)
    this.#wakeFds = makePipe()
    const workerData: WorkerSettings = { fd, wakeFd: this.#wakeFds.readFd, control: this.#control, files: [...this.#files.values()] }
    this.#worker = new Worker(new URL('./fuse-file-worker.ts', import.meta.url), { workerData, name: 'fuse' })
    let reason: FuseEnd | undefined
    this.#worker.on('message', (message: FromWorker) => {
      if (message.kind === 'missing') void this.#fetch(message)
      else if (message.kind === 'log') this.#options.logger.error(message.fields, message.message)
      else reason = message.reason
    })
    this.#worker.on('error', (error: unknown) => this.#end.reject(error))
    this.#worker.on('exit', () => {
      this.#release()
      if (reason) this.#end.resolve(reason)
      else this.#end.reject(new Error('the thread that serves a FUSE mount has ended'))
    })
    // process.exit waits for threads, and this one waits for the kernel.
    process.on('exit', this.#stop)
  }

  /** Adds a file, or replaces the one of its name: whoever looks for it after this call finds it. */
  add (file: FuseFile): void {
    this.#files.set(file.name, file)
    this.#post({ kind: 'add', file })
  }

  /** Removes a file: it is not found any more, and reads of those who have it open fail with EIO, but for what the kernel has cached. */
  remove (name: string): void {
    this.#files.delete(name)
    this.#post({ kind: 'remove', name })
  }

  /**
   * Asks the kernel to give out again what an earlier server took and did not answer. Answers false when `fd` has never been mounted, so
   * that there was no earlier server. Throws ENODEV when its mount is gone, EINVAL before Linux 6.9. To be called before `start`.
   */
  resend (): boolean {
    try {
      writeSync(this.#options.fd, encodeResend())
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EPERM') return false
      throw error
    }
  }

  /** Stops answering, when the request at hand is answered; those set aside are left for the next server on this fd. */
  async close (): Promise<FuseEnd> {
    if (!this.#worker) this.#end.resolve('closed')
    this.#stop()
    return await this.ended
  }

  async #fetch ({ unique, name, startByte, endByte }: FromWorker & { kind: 'missing' }): Promise<void> {
    let isThere = true
    try {
      await this.#options.onMissing(name, startByte, endByte)
    } catch (error) {
      isThere = false
      this.#options.logger.warn({ err: error, name, startByte, endByte }, 'a missing range could not be fetched')
    }
    this.#post({ kind: 'settled', unique, isThere })
  }

  #post (message: ToWorker): void {
    // In this order: who is woken finds the message.
    this.#worker?.postMessage(message)
    this.#wake()
  }

  #wake (): void {
    if (!this.#wakeFds || Atomics.exchange(this.#control, controlWords.isWoken, 1) === 1) return
    writeSync(this.#wakeFds.writeFd, '\0')
  }

  readonly #stop = (): void => {
    Atomics.store(this.#control, controlWords.isClosing, 1)
    this.#wake()
  }

  #release (): void {
    process.off('exit', this.#stop)
    if (!this.#wakeFds) return
    closeSync(this.#wakeFds.readFd)
    closeSync(this.#wakeFds.writeFd)
    this.#wakeFds = undefined
    this.#worker = undefined
  }
}
