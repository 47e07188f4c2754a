import { chmod, constants, link, lstat, lutimes, mkdir, open, stat, symlink, unlink, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { Parser, type ReadEntry } from 'tar'
import { BerthError } from '../errors.ts'
import { printable, quoteName } from './printable.ts'

export interface ExtractOptions {
  /** What the one entry at the top of the archive becomes; its own name there counts for nothing. */
  target: string
  /** Whether the person named it: then it may be a link, or a device. Below it nothing is written through either. */
  isNamed: boolean
  /** What it has to be. */
  type: 'file' | 'directory'
  /** Told of every piece that was written. */
  onBytes?: (bytes: number) => void
  signal?: AbortSignal
}

export interface Extracted {
  files: number
  bytes: number
  /** Devices, FIFOs and the like, which are left out. */
  leftOut: number
}

// What is kept of an archive until its end: its links and directories.
const maxKept = 1_000_000
const permissions = 0o777

/**
 * Unpacks a tar whose maker is not trusted.
 *
 * Nothing is written outside of the target: no part of a path may be `..`, nor a symbolic link, be it one that was there before; links
 * of the archive are made after all else. No device or FIFO is made, no setuid, setgid or sticky bit set, nobody else made owner.
 *
 * @throws BerthError invalid_argument `invalid_archive`; conflict `path_exists` where a directory is in the way, or something else in that of one.
 */
export async function extractTree (source: Readable, options: ExtractOptions): Promise<Extracted> {
  return await new TreeExtractor(options).run(source)
}

class TreeExtractor {
  readonly #options: ExtractOptions
  readonly #result: Extracted = { files: 0, bytes: 0, leftOut: 0 }
  readonly #links: Array<{ path: string, to: string, at: Date | undefined }> = []
  readonly #directories = new Map<string, { mode: number, at: Date | undefined }>()
  #hasTop = false

  constructor (options: ExtractOptions) {
    this.#options = options
  }

  async run (source: Readable): Promise<Extracted> {
    const failed = Promise.withResolvers<never>()
    failed.promise.catch(() => {})
    const parser = new Parser({ onwarn: (code, message) => { if (code !== 'TAR_ENTRY_INFO') failed.reject(invalid(printable(String(message)))) } })
    // The next entry comes when this one was read to its end, which may be before its mode is set.
    let taken = Promise.resolve()
    parser.on('entry', (entry: ReadEntry) => {
      taken = taken.then(() => this.#take(entry)).then(() => { entry.resume() })
      taken.catch(error => failed.reject(error))
    })
    parser.on('ignoredEntry', () => { this.#result.leftOut++ })
    const whole = new Promise<void>((resolve, reject) => {
      parser.on('end', resolve)
      parser.on('error', reject)
    })
    const fed = (async () => {
      for await (const chunk of source) {
        this.#options.signal?.throwIfAborted()
        if (!parser.write(chunk as Buffer)) await Promise.race([new Promise<void>(resolve => parser.once('drain', resolve)), failed.promise])
      }
      parser.end()
      await whole
      await taken
    })()
    try {
      await Promise.race([fed, failed.promise])
      if (!this.#hasTop) throw invalid('there is nothing in it')
      await this.#finish()
    } finally {
      source.destroy()
      fed.catch(() => {})
    }
    return this.#result
  }

  async #take (entry: ReadEntry): Promise<void> {
    const parts = this.#partsOf(entry.path)
    const path = join(this.#options.target, ...parts)
    if (parts.length === 0) this.#checkTop(entry)
    else if (this.#options.type === 'file') throw invalid('a file was asked for, and there are more in it')
    else await this.#makeParents(parts)
    switch (entry.type) {
      case 'Directory':
      case 'GNUDumpDir':
        return await this.#takeDirectory(path, entry, parts.length === 0)
      case 'File':
      case 'OldFile':
      case 'ContiguousFile':
        return await this.#writeFile(path, entry, parts.length === 0)
      case 'Link':
        return await this.#linkFile(path, entry)
      case 'SymbolicLink':
        this.#keep(() => this.#links.push({ path, to: String(entry.linkpath ?? ''), at: entry.mtime }))
        return
      default:
        this.#result.leftOut++
    }
  }

  async #takeDirectory (path: string, entry: ReadEntry, isTarget: boolean): Promise<void> {
    const isNew = await this.#makeDirectory(path, isTarget && this.#options.isNamed)
    // One that the person had already stays as it is.
    if (isTarget && !isNew) return
    this.#keep(() => this.#directories.set(path, { mode: (entry.mode ?? 0o755) & permissions, at: entry.mtime }))
  }

  /** The parts of a path below the entry at the top. */
  #partsOf (path: string): string[] {
    const parts = path.split('/').filter(part => part !== '' && part !== '.')
    if (path.startsWith('/') || parts.includes('..') || path.includes('\0')) throw invalid(`${quoteName(path)} leads out of it`)
    return parts.slice(1)
  }

  #checkTop (entry: ReadEntry): void {
    const isDirectory = entry.type === 'Directory' || entry.type === 'GNUDumpDir'
    if (isDirectory !== (this.#options.type === 'directory')) throw invalid(`a ${this.#options.type} was asked for, and a ${isDirectory ? 'directory' : 'file'} came`)
    if (!isDirectory && (this.#hasTop || entry.type === 'SymbolicLink' || entry.type === 'Link')) throw invalid('a file was asked for, and something else came')
    this.#hasTop = true
  }

  /** Directories that the archive has not named are made too. */
  async #makeParents (parts: string[]): Promise<void> {
    if (!this.#hasTop) throw invalid('it does not begin with its directory')
    for (let depth = 1; depth < parts.length; depth++) {
      const path = join(this.#options.target, ...parts.slice(0, depth))
      if (!this.#directories.has(path)) await this.#makeDirectory(path, false)
    }
  }

  /** Answers whether it is new. */
  async #makeDirectory (path: string, mayBeLink: boolean): Promise<boolean> {
    try {
      await mkdir(path, 0o700)
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    if ((await (mayBeLink ? stat : lstat)(path)).isDirectory()) return false
    throw new BerthError('conflict', 'path_exists', `${quoteName(path)} is in the way of a directory, and nothing is written through a link; remove it first`)
  }

  async #writeFile (path: string, entry: ReadEntry, isTarget: boolean): Promise<void> {
    const isSpecial = isTarget && this.#options.isNamed && await isDeviceOrPipe(path)
    if (!isSpecial) await clear(path)
    const flags = isSpecial ? constants.O_WRONLY : constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW
    await using file = await open(path, flags, 0o600)
    for await (const chunk of entry) {
      this.#options.signal?.throwIfAborted()
      await file.writeFile(chunk)
      this.#result.bytes += chunk.length
      this.#options.onBytes?.(chunk.length)
    }
    this.#result.files++
    if (isSpecial) return
    await file.chmod((entry.mode ?? 0o644) & permissions)
    if (entry.mtime) await file.utimes(entry.mtime, entry.mtime)
  }

  /** To a file that came before, nothing else. */
  async #linkFile (path: string, entry: ReadEntry): Promise<void> {
    const parts = this.#partsOf(String(entry.linkpath ?? ''))
    if (parts.length === 0) throw invalid('a hard link leads to its top')
    await this.#makeParents(parts)
    const from = join(this.#options.target, ...parts)
    if (from === path) return
    const there = await lstat(from).catch(() => undefined)
    if (!there?.isFile()) throw invalid(`the hard link ${quoteName(entry.path)} leads to what is no file of it`)
    await clear(path)
    await link(from, path)
    this.#result.files++
  }

  async #finish (): Promise<void> {
    for (const { path, to, at } of this.#links) {
      await clear(path)
      await symlink(to, path)
      if (at) await lutimes(path, at, at)
    }
    // Inner ones first: an outer one may not let anybody in any more.
    for (const [path, { mode, at }] of [...this.#directories].sort(([one], [other]) => other.length - one.length)) {
      await chmod(path, mode)
      if (at) await utimes(path, at, at)
    }
  }

  #keep (keep: () => void): void {
    if (this.#links.length + this.#directories.size >= maxKept) throw invalid('it has too many links and directories')
    keep()
  }
}

/** Makes room for a file: what is there is replaced, not written into. */
async function clear (path: string): Promise<void> {
  try {
    await unlink(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return
    if (code === 'EISDIR' || code === 'EPERM') throw new BerthError('conflict', 'path_exists', `${quoteName(path)} is a directory, and a file is to be there; remove it first`)
    throw error
  }
}

async function isDeviceOrPipe (path: string): Promise<boolean> {
  const there = await lstat(path).catch(() => undefined)
  return there !== undefined && (there.isCharacterDevice() || there.isBlockDevice() || there.isFIFO())
}

function invalid (problem: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_archive', `the archive from inside is refused: ${problem}`)
}
