import { constants, type Stats } from 'node:fs'
import { open, readlink, type FileHandle } from 'node:fs/promises'

// <fcntl.h> of Linux (all architectures Node runs on): a handle on the name itself, without opening what it is.
// Node's constants lack it. Opening a device, even to look at it, can act on the host.
const openPath = 0x200000
// As the kernel: more symbolic links than this on the way count as a loop (path_resolution(7)).
const maxLinks = 40

/** Why a file inside untrusted content was not read. */
export class ContainedFileError extends Error {
  constructor (message: string) {
    super(message)
    this.name = 'ContainedFileError'
  }
}

export interface ContainedOptions {
  /** `contain`: a link is resolved as if the top directory were the root; `refuse`: a link anywhere is an error. */
  links: 'contain' | 'refuse'
}

/**
 * Opens a regular file below untrusted directories without ever leaving them: every component is opened by itself,
 * relative to its parent, no link is followed by the kernel.
 *
 * With several directories (top first) a name is looked up as overlayfs does, whiteouts hide what is below them;
 * opaque markers (an extended attribute) are not seen, so a directory reads as merged.
 *
 * @returns undefined when there is no such file. @throws ContainedFileError when it is not a regular file.
 */
export async function openContained (dirs: readonly string[], path: string, options: ContainedOptions): Promise<FileHandle | undefined> {
  const found = await locate(dirs, components(path), options)
  if (!found) return undefined
  try {
    if (!(await found.stat()).isFile()) throw new ContainedFileError(`${path} is not a regular file`)
    // Opens the very inode that was looked at: the path is not walked again.
    return await open(`/proc/self/fd/${found.fd}`, constants.O_RDONLY)
  } finally {
    await found.close()
  }
}

/** Reads a small file below untrusted directories; see openContained. @throws ContainedFileError when it is too large. */
export async function readContained (dirs: readonly string[], path: string, options: ContainedOptions & { maxBytes: number }): Promise<Buffer | undefined> {
  const file = await openContained(dirs, path, options)
  if (!file) return undefined
  try {
    return await readBounded(file, path, options.maxBytes)
  } finally {
    await file.close()
  }
}

/** All of an open file from its start. @throws ContainedFileError when it holds more than `maxBytes`. */
export async function readBounded (file: FileHandle, name: string, maxBytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(Math.min((await file.stat()).size, maxBytes) + 1)
  let length = 0
  while (length < buffer.length) {
    const { bytesRead } = await file.read(buffer, length, buffer.length - length, length)
    if (bytesRead === 0) return buffer.subarray(0, length)
    length += bytesRead
  }
  throw new ContainedFileError(`${name} is larger than ${maxBytes} bytes`)
}

async function locate (dirs: readonly string[], wanted: string[], options: ContainedOptions): Promise<FileHandle | undefined> {
  const pending = [...wanted]
  // The components walked so far, none of them a link: ".." pops one and cannot pass the top.
  const walked: string[] = []
  let links = 0
  while (pending.length > 0) {
    const name = pending.shift() as string
    if (name === '..') {
      walked.pop()
      continue
    }
    const entry = await lookUp(dirs, [...walked, name])
    if (!entry) return undefined
    if (entry.link === undefined && pending.length === 0) return entry.handle
    await entry.handle.close()
    if (entry.link !== undefined) {
      if (options.links === 'refuse') throw new ContainedFileError(`${name} is a symbolic link`)
      if (++links > maxLinks) throw new ContainedFileError('too many symbolic links')
      if (entry.link.startsWith('/')) walked.length = 0
      pending.unshift(...components(entry.link))
    } else if (entry.stats.isDirectory()) {
      walked.push(name)
    } else {
      return undefined
    }
  }
  throw new ContainedFileError(`${wanted.join('/')} is not a regular file`)
}

interface Entry {
  handle: FileHandle
  stats: Stats
  /** Text of a symbolic link. */
  link: string | undefined
}

/** The topmost entry of this name in the tree that the layers form together. */
async function lookUp (dirs: readonly string[], names: readonly string[]): Promise<Entry | undefined> {
  for (const dir of dirs) {
    const entry = await lookUpInLayer(dir, names)
    if (entry === 'hidden') return undefined
    if (entry) return entry
  }
  return undefined
}

/** The entry in one layer; `hidden` when this layer hides the name in those below it. */
async function lookUpInLayer (dir: string, names: readonly string[]): Promise<Entry | 'hidden' | undefined> {
  let parent = await open(dir, openPath | constants.O_DIRECTORY)
  for (const [index, name] of names.entries()) {
    const entry = await openBelow(parent, name).finally(() => parent.close())
    if (!entry) return undefined
    const isWhiteout = entry.stats.isCharacterDevice() && entry.stats.rdev === 0
    const isLast = index === names.length - 1
    if (isLast && !isWhiteout) return entry
    if (isWhiteout || !entry.stats.isDirectory()) {
      await entry.handle.close()
      return 'hidden'
    }
    parent = entry.handle
  }
  await parent.close()
  return undefined
}

async function openBelow (parent: FileHandle, name: string): Promise<Entry | undefined> {
  // /proc/self/fd/<n>/<name> is openat(n, name): the first part is the directory itself, whatever its path is by now.
  const path = `/proc/self/fd/${parent.fd}/${name}`
  let handle: FileHandle
  try {
    handle = await open(path, openPath | constants.O_NOFOLLOW)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENAMETOOLONG') return undefined
    throw error
  }
  try {
    const stats = await handle.stat()
    return { handle, stats, link: stats.isSymbolicLink() ? await readlink(path) : undefined }
  } catch (error) {
    await handle.close()
    throw error
  }
}

function components (path: string): string[] {
  return path.split('/').filter(name => name !== '' && name !== '.')
}
