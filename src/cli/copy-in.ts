import { createReadStream } from 'node:fs'
import { lstat, realpath, stat } from 'node:fs/promises'
import { basename, posix, resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { BerthError } from '../errors.ts'
import type { Copied, Copy } from './copy-command.ts'
import { insidePath, meansContents, meansDirectory } from './copy-place.ts'
import { filesPath, sendFile, statInside } from './file-calls.ts'
import { quoteName } from './printable.ts'
import { packTree } from './tree-packer.ts'

interface Source {
  path: string
  isDirectory: boolean
  mode: number
  sizeBytes: number
  isLink: boolean
  /** What it is called where its directory is named; undefined: what is in it is meant. */
  name: string | undefined
}

/** Copies a file or a directory here into a sandbox, by the rules of docker cp. */
export async function copyIn (copy: Copy, given: string, target: string): Promise<Copied> {
  const source = await readSource(copy, given)
  const to = insidePath(target)
  const there = await statInside(copy, to, { follow: true })
  if (there?.type === 'directory') return await sendTree(copy, source, { directory: to, name: source.name })
  if (there && source.isDirectory) throw new BerthError('conflict', 'not_a_directory', `${quoteName(to)} in ${copy.sandboxId} is not a directory, and a directory is to be copied`)
  if (meansDirectory(target) && !source.isDirectory) {
    throw there
      ? new BerthError('conflict', 'not_a_directory', `${quoteName(to)} in ${copy.sandboxId} is not a directory`)
      : new BerthError('not_found', 'path_not_found', `${quoteName(to)} is not there in ${copy.sandboxId}; make the directory first, or leave out the / at its end`)
  }
  const link = there && !source.isLink ? await statInside(copy, to, { follow: false }) : undefined
  if (link?.type === 'symlink') return await writeThrough(copy, source, to)
  return await sendTree(copy, source, { directory: posix.dirname(to), name: posix.basename(to) })
}

/** Unpacks a tar of standard input into a directory of a sandbox. */
export async function copyTarIn (copy: Copy, target: string): Promise<Copied> {
  const to = insidePath(target)
  const { stdin } = copy.shell.context
  let bytes = 0
  stdin.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    copy.onBytes(chunk.length)
  }).pause()
  await unpackInside(copy, to, stdin)
  return { to, bytes }
}

async function readSource ({ followsLink }: Copy, given: string): Promise<Source> {
  const isFollowed = followsLink || meansDirectory(given)
  const facts = await (isFollowed ? stat : lstat)(given).catch(cause => {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause
    throw new BerthError('not_found', 'path_not_found', `${quoteName(given)} is not there`, { cause })
  })
  const isDirectory = facts.isDirectory()
  const isLink = facts.isSymbolicLink()
  if (!isDirectory && !isLink && !facts.isFile()) throw new BerthError('invalid_argument', 'not_a_file', `${quoteName(given)} is neither a file nor a directory`)
  if (meansDirectory(given) && !isDirectory) throw new BerthError('invalid_argument', 'not_a_directory', `${quoteName(given)} is not a directory`)
  const path = isFollowed ? await realpath(given) : resolve(given)
  const name = basename(resolve(given))
  return { path, isDirectory, isLink, mode: facts.mode & 0o7777, sizeBytes: facts.size, name: isDirectory && (meansContents(given) || name === '') ? undefined : name }
}

async function sendTree (copy: Copy, source: Source, { directory, name }: { directory: string, name: string | undefined }): Promise<Copied> {
  let bytes = 0
  const tar = packTree({
    source: source.path,
    isDirectory: source.isDirectory,
    name,
    onBytes: more => {
      bytes += more
      copy.onBytes(more)
    },
  })
  await unpackInside(copy, directory, tar)
  return { to: name === undefined ? directory : posix.join(directory, name), bytes: source.isDirectory ? bytes : source.sizeBytes }
}

async function unpackInside ({ shell, sandboxId, user, signal }: Copy, path: string, source: Readable): Promise<void> {
  await shell.client().send('PUT', `${filesPath(sandboxId)}/archive`, { query: { path, user, parents: false }, upload: { source, type: 'application/x-tar' }, signal })
}

/** Where a link inside leads to only the sandbox can say. */
async function writeThrough (copy: Copy, { path, mode, sizeBytes }: Source, to: string): Promise<Copied> {
  const source = createReadStream(path)
  source.on('data', chunk => copy.onBytes(chunk.length)).pause()
  await sendFile(copy, { path: to, source, sizeBytes, query: { mode: `0${(mode & 0o777).toString(8).padStart(3, '0')}`, parents: false } })
  return { to, bytes: sizeBytes }
}
