/** The file that hands the admin token to the host's owner: mode 0600, replaced whole or not at all. */
import { closeSync, constants, fchmodSync, fstatSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { BerthError } from '../../errors.ts'

const pattern = /^berth_[A-Za-z0-9_-]{32,128}$/
const mode = 0o600

/** The token in the file, whose mode is set right; undefined when there is no file, or no token in it. */
export function readTokenFile (path: string): string | undefined {
  const fd = openExisting(path)
  if (fd === undefined) return undefined
  try {
    const stats = fstatSync(fd)
    if (!stats.isFile()) throw new BerthError('internal', 'token_file_invalid', 'the admin token file is not a regular file; remove it and start again')
    if (stats.size > 1024) return undefined
    if ((stats.mode & 0o777) !== mode) fchmodSync(fd, mode)
    const token = readFileSync(fd, 'utf8').trim()
    return pattern.test(token) ? token : undefined
  } finally {
    closeSync(fd)
  }
}

export function writeTokenFile (path: string, token: string): void {
  // One fixed name, so that a crash leaves at most one of them; removed first, so that what is opened is never another's.
  const temporary = `${path}.tmp`
  rmSync(temporary, { force: true })
  const fd = openSync(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, mode)
  try {
    fchmodSync(fd, mode)
    writeSync(fd, `${token}\n`)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(temporary, path)
  syncDirectory(dirname(path))
}

function openExisting (path: string): number | undefined {
  try {
    // O_NONBLOCK: opening a fifo must not wait for its writer.
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    if (code !== 'ELOOP') throw error
    throw new BerthError('internal', 'token_file_invalid', 'the admin token file is a symbolic link; remove it and start again', { cause: error })
  }
}

function syncDirectory (path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
