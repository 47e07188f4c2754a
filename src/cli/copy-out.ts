import { lstat, realpath, stat, symlink, unlink } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { BerthError } from '../errors.ts'
import type { FileEntry } from '../schemas/file.ts'
import type { Copied, Copy } from './copy-command.ts'
import { insidePath, meansContents, meansDirectory } from './copy-place.ts'
import { filesPath, statInside } from './file-calls.ts'
import { quoteName } from './printable.ts'
import { extractTree } from './tree-extractor.ts'

/** Copies out of a sandbox, to a path here. What comes is taken for hostile: see `extractTree`. */
export async function copyOut (copy: Copy, source: string, target: string): Promise<Copied> {
  const path = insidePath(source)
  const entry = await statInside(copy, path, { follow: copy.followsLink || meansDirectory(source) })
  if (!entry) throw new BerthError('not_found', 'path_not_found', `${quoteName(path)} is not there in ${copy.sandboxId}`)
  if (meansDirectory(source) && entry.type !== 'directory') throw new BerthError('conflict', 'not_a_directory', `${quoteName(path)} in ${copy.sandboxId} is not a directory`)
  const { to, isNamed } = await placeHere(entry, source, target)
  if (entry.type === 'symlink') return await makeLink(entry, to)
  if (entry.type !== 'directory' && entry.type !== 'file') throw new BerthError('conflict', 'not_a_file', `${quoteName(path)} is neither a file nor a directory, but: ${entry.type}`)
  const archive = await openArchive(copy, path)
  const { bytes, leftOut } = await extractTree(archive, { target: to, isNamed, type: entry.type, onBytes: copy.onBytes, signal: copy.signal })
    .catch(error => { throw archive.errored === error ? copy.shell.client().asAnswerError(error, copy.signal) : error })
  return { to, bytes, ...(leftOut > 0 ? { leftOut } : {}) }
}

/** Copies out of a sandbox, as a tar on standard output. */
export async function copyTarOut (copy: Copy, source: string): Promise<Copied> {
  let bytes = 0
  const archive = await openArchive(copy, insidePath(source))
  try {
    for await (const chunk of archive) {
      bytes += (chunk as Buffer).length
      copy.onBytes((chunk as Buffer).length)
      await copy.shell.output.out(chunk as Buffer)
    }
  } catch (error) {
    throw archive.errored === error ? copy.shell.client().asAnswerError(error, copy.signal) : error
  } finally {
    archive.destroy()
  }
  return { to: '-', bytes }
}

function openArchive ({ shell, sandboxId, user, signal }: Copy, path: string) {
  return shell.client().download('GET', `${filesPath(sandboxId)}/archive`, { query: { path, user }, accept: 'application/x-tar', signal })
}

/** Where it goes, by the rules of docker cp; and whether that is what the person wrote, or something in it. */
async function placeHere (entry: FileEntry, source: string, target: string): Promise<{ to: string, isNamed: boolean }> {
  const there = await stat(target).catch(error => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  })
  const isDirectory = entry.type === 'directory'
  if (!there) {
    if (meansDirectory(target) && !isDirectory) throw new BerthError('not_found', 'path_not_found', `${quoteName(target)} is not there; make the directory first, or leave out the / at its end`)
    return { to: target.replace(/(?<=.)\/+\.?$/, ''), isNamed: true }
  }
  if (!there.isDirectory()) {
    if (isDirectory) throw new BerthError('conflict', 'not_a_directory', `${quoteName(target)} is not a directory, and a directory is to be copied`)
    return { to: await realpath(target), isNamed: true }
  }
  const name = basename(insidePath(source))
  if (isDirectory && (meansContents(source) || name === '')) return { to: target, isNamed: true }
  return { to: join(target, name), isNamed: false }
}

async function makeLink ({ target = '', encoding }: FileEntry, to: string): Promise<Copied> {
  const there = await lstat(to).catch(() => undefined)
  if (there?.isDirectory()) throw new BerthError('conflict', 'path_exists', `${quoteName(to)} is a directory, and a symbolic link is to be there; remove it first`)
  if (there) await unlink(to)
  await symlink(encoding ? Buffer.from(target, encoding) : target, to)
  return { to, bytes: 0 }
}
