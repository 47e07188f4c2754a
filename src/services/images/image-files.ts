import type { FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { openContained } from './contained-file.ts'

const chunkBytes = 1024 ** 2

/** Part of an open file, which it closes. */
export class FileRange {
  /** The file on this host; undefined when it is a passing copy. */
  readonly path: string | undefined
  readonly offsetBytes: number
  readonly sizeBytes: number
  readonly #handle: FileHandle

  constructor (options: { handle: FileHandle, path?: string, offsetBytes: number, sizeBytes: number }) {
    this.#handle = options.handle
    this.path = options.path
    this.offsetBytes = options.offsetBytes
    this.sizeBytes = options.sizeBytes
  }

  /** The bytes in order; fewer when the file has become shorter, never more. */
  async * chunks (): AsyncGenerator<Buffer, void, undefined> {
    for (let done = 0; done < this.sizeBytes;) {
      const chunk = await this.readAt(done, chunkBytes)
      if (chunk.length === 0) return
      done += chunk.length
      yield chunk
    }
  }

  /** All of it; for small ones. */
  async read (): Promise<Buffer> {
    const chunks: Buffer[] = []
    for await (const chunk of this.chunks()) chunks.push(chunk)
    return Buffer.concat(chunks)
  }

  /** At most so many bytes from this one on; fewer at the end. */
  async readAt (offset: number, count: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(Math.max(0, Math.min(count, this.sizeBytes - offset)))
    const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, this.offsetBytes + offset)
    return buffer.subarray(0, bytesRead)
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.#handle.close()
  }
}

/** The files that an image consists of, by their paths in it. */
export interface ImageFiles {
  /** undefined when there is no such file. @throws ContainedFileError for what is no regular file or leads elsewhere. */
  open (path: string): Promise<FileRange | undefined>
  /** Keeps passing copies until it is disposed. */
  hold (): AsyncDisposable
}

/** Files below a directory; no link is followed. */
export class DirectoryFiles implements ImageFiles {
  readonly #dir: string

  constructor (dir: string) {
    this.#dir = dir
  }

  async open (path: string): Promise<FileRange | undefined> {
    const handle = await openContained([this.#dir], path, { links: 'refuse' })
    if (!handle) return undefined
    return new FileRange({ handle, path: join(this.#dir, path), offsetBytes: 0, sizeBytes: (await handle.stat()).size })
  }

  hold (): AsyncDisposable {
    return { [Symbol.asyncDispose]: async () => {} }
  }
}
