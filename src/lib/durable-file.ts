import { open, readFile, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Replaces a file whole or not at all, also when the machine loses power: temporary file, fsync, rename, fsync of the directory.
 * One writer at a time per path.
 */
export async function writeDurably (path: string, content: string, mode = 0o600): Promise<void> {
  const temporary = `${path}.tmp`
  const file = await open(temporary, 'w', mode)
  try {
    await file.writeFile(content)
    await file.datasync()
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  } finally {
    await file.close()
  }
  await rename(temporary, path)
  await syncPath(dirname(path))
}

/** Waits until a file or directory is on disk. */
export async function syncPath (path: string): Promise<void> {
  const file = await open(path, 'r')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}

/** The JSON in a file, or undefined when there is no such file or it holds none. Throws when it cannot be read: that is no proof that it is not there. */
export async function readJson (path: string): Promise<unknown> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return ''
    throw error
  })
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
