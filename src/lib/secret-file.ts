import { open } from 'node:fs/promises'

/**
 * Reads a small file that nobody but its owner may read, and nobody but its owner or root may have put there.
 *
 * @throws Error that says what is wrong with it, and holds nothing of it.
 */
export async function readSecretFile (path: string, limits: { minBytes: number, maxBytes: number }): Promise<Buffer> {
  await using file = await open(path).catch((error: NodeJS.ErrnoException) => {
    throw new Error(`it cannot be read (${error.code})`)
  })
  const stats = await file.stat()
  if (!stats.isFile()) throw new Error('it is no regular file')
  if ((stats.mode & 0o077) !== 0) throw new Error('others than its owner have access to it: chmod 600 it')
  if (stats.uid !== 0 && stats.uid !== process.getuid?.()) throw new Error('it belongs to another user: chown it to root')
  if (stats.size < limits.minBytes || stats.size > limits.maxBytes) throw new Error(`it has ${stats.size} bytes, not ${limits.minBytes} to ${limits.maxBytes}`)
  return file.readFile()
}
