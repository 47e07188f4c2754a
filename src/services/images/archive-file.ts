import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { mkdir, open, readlink, rm, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { BerthError } from '../../errors.ts'
import { decompressZstd } from '../../lib/zstd.ts'
import { indexArchive, type ArchiveMember } from './archive-index.ts'
import { ContainedFileError } from './contained-file.ts'
import { writeWithinDisk } from './disk-writer.ts'
import { FileRange, type ImageFiles } from './image-files.ts'
import { invalidImage } from './image-source.ts'

const maxLinks = 8

export type Compression = 'gzip' | 'zstd'

/** How content that begins so is compressed; undefined when it is not. @throws ContainedFileError for a kind unknown here. */
export function compressionOf (start: Buffer): Compression | undefined {
  const magic = start.toString('hex', 0, 4)
  if (magic.startsWith('1f8b')) return 'gzip'
  if (magic === '28b52ffd') return 'zstd'
  if (magic === 'fd377a58' || magic.startsWith('425a68')) throw new ContainedFileError('it is compressed in a way that cannot be read here; use gzip, zstd or none')
  return undefined
}

/** The archives that are decompressed at this moment: each once, whoever needs it. */
export class DecompressedCopies {
  readonly #dir: string
  readonly #copies = new Map<string, { path: string, ready: Promise<void>, users: number }>()

  /** `dir` is for what passes; it is made when it is needed. */
  constructor (options: { dir: string }) {
    this.#dir = options.dir
  }

  /** The copy of this name, written by `write` unless it is there; deleted when all who acquired it have released it. */
  async acquire (name: string, write: (path: string) => Promise<void>): Promise<{ path: string, release: () => Promise<void> }> {
    let copy = this.#copies.get(name)
    if (!copy) {
      const path = join(this.#dir, randomUUID())
      copy = { path, ready: mkdir(this.#dir, { recursive: true, mode: 0o700 }).then(() => write(path)), users: 0 }
      this.#copies.set(name, copy)
    }
    const own = copy
    own.users++
    const release = async () => {
      if (--own.users > 0) return
      if (this.#copies.get(name) === own) this.#copies.delete(name)
      await rm(own.path, { force: true })
    }
    try {
      await own.ready
    } catch (error) {
      // Who comes later tries anew.
      if (this.#copies.get(name) === own) this.#copies.delete(name)
      await release()
      throw error
    }
    return { path: own.path, release }
  }
}

/** The members of a tar archive of a client's, plain, gzip or zstd. They are read where they lie in it. */
export class ArchiveFile implements ImageFiles {
  readonly #path: string
  readonly #name: string
  readonly #links: 'refuse' | 'contain'
  readonly #copies: DecompressedCopies
  #index: { identity: string, members: Map<string, ArchiveMember> } | undefined
  #holds = 0
  #held: Array<() => Promise<void>> = []

  /** `path` is where it lies, without links; `name` how the client called it; `links` whether members may be links to others. */
  constructor (options: { path: string, name: string, links: 'refuse' | 'contain', copies: DecompressedCopies }) {
    this.#path = options.path
    this.#name = options.name
    this.#links = options.links
    this.#copies = options.copies
  }

  async open (path: string): Promise<FileRange | undefined> {
    const archive = await this.#openArchive()
    try {
      const member = this.#find(await this.#members(archive), path)
      if (member) return new FileRange({ handle: archive.handle, path: archive.path, offsetBytes: member.offsetBytes, sizeBytes: member.sizeBytes })
    } catch (error) {
      await archive.handle.close()
      throw error
    }
    await archive.handle.close()
    return undefined
  }

  hold (): AsyncDisposable {
    this.#holds++
    let isHeld = true
    return {
      [Symbol.asyncDispose]: async () => {
        if (!isHeld) return
        isHeld = false
        if (--this.#holds > 0) return
        const held = this.#held.splice(0)
        for (const release of held) await release()
      },
    }
  }

  async #members (archive: OpenArchive): Promise<Map<string, ArchiveMember>> {
    if (this.#index?.identity !== archive.identity) {
      const { size } = await archive.handle.stat()
      this.#index = { identity: archive.identity, members: await indexArchive(new FileRange({ handle: archive.handle, offsetBytes: 0, sizeBytes: size })) }
    }
    return this.#index.members
  }

  #find (members: Map<string, ArchiveMember>, wanted: string): (ArchiveMember & { kind: 'file' }) | undefined {
    let path = wanted
    for (let links = 0; links <= maxLinks; links++) {
      const member = members.get(path)
      if (member?.kind === 'file') return member
      if (!member) {
        if (links === 0) return undefined
        throw new ContainedFileError(`${wanted} is a link to something that is not in the archive`)
      }
      if (member.kind === 'other') throw new ContainedFileError(`${wanted} is not a regular file`)
      if (this.#links === 'refuse') throw new ContainedFileError(`${wanted} is a link`)
      path = member.target
    }
    throw new ContainedFileError('too many links')
  }

  async #openArchive (): Promise<OpenArchive> {
    const handle = await openRegular(this.#path, this.#name)
    try {
      const { size } = await handle.stat()
      const identity = await identityOf(handle)
      const range = new FileRange({ handle, offsetBytes: 0, sizeBytes: size })
      const compression = compressionOf(await range.readAt(0, 4))
      if (compression === undefined) return { handle, path: this.#path, identity }
      const copy = await this.#copies.acquire(identity, path => writeWithinDisk(path, decompressed(range, compression, this.#name)))
      await handle.close()
      // An open file stays when its name goes.
      const opened = await open(copy.path).catch(async (error: unknown) => { await copy.release(); throw error })
      if (this.#holds > 0 && this.#held.length === 0) this.#held.push(copy.release)
      else await copy.release()
      return { handle: opened, path: undefined, identity }
    } catch (error) {
      await handle.close().catch(() => {})
      throw error
    }
  }
}

interface OpenArchive {
  handle: FileHandle
  path: string | undefined
  /** Of the client's file, also when a copy is open. */
  identity: string
}

/** What changes when a file becomes another or its content changes. */
export async function identityOf (handle: FileHandle): Promise<string> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await handle.stat({ bigint: true })
  return [dev, ino, size, mtimeNs, ctimeNs].join(' ')
}

/** Opens a file whose path was found to be one that clients may name, and sees to it that it is still that one. */
export async function openRegular (path: string, name: string): Promise<FileHandle> {
  // A fifo that took its place would be waited for.
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    .catch((error: unknown) => { throw new BerthError('invalid_argument', 'image_not_found', `${name} cannot be read; it may have been moved`, { cause: error }) })
  if ((await handle.stat()).isFile() && await readlink(`/proc/self/fd/${handle.fd}`) === path) return handle
  await handle.close()
  throw invalidImage(name, 'the file was replaced while it was looked at')
}

async function * decompressed (range: FileRange, compression: Compression, name: string): AsyncGenerator<Buffer> {
  try {
    yield * compression === 'zstd' ? decompressZstd(range.chunks()) : gunzip(range.chunks())
  } catch (error) {
    throw invalidImage(name, `its ${compression} compression is damaged or cut short`, error)
  }
}

async function * gunzip (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const input = Readable.from(source, { objectMode: false })
  const output = createGunzip()
  input.on('error', error => output.destroy(error))
  input.pipe(output)
  try {
    for await (const chunk of output) yield chunk as Buffer
  } finally {
    input.destroy()
    output.destroy()
  }
}
