import { open, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { BerthError } from '../../errors.ts'

// How often free space is looked at: much less than what is kept free.
const checkBytes = 32 * 1024 ** 2
const maxKeptFreeBytes = 1024 ** 3
const keptFreeShare = 0.05

/**
 * Writes a file of unknown size. What is decompressed can be a thousand times what it was, so 5 % of the disk (1 GiB at
 * most) stay free for those who run.
 *
 * @throws BerthError exhausted `disk_full`; what the chunks throw. The file is left as far as it came.
 */
export async function writeWithinDisk (path: string, chunks: AsyncIterable<Buffer>): Promise<void> {
  await using file = await open(path, 'wx', 0o600)
  let unchecked = 0
  try {
    for await (const chunk of chunks) {
      await file.writeFile(chunk)
      unchecked += chunk.length
      if (unchecked < checkBytes) continue
      unchecked = 0
      const { bavail, blocks, bsize } = await statfs(dirname(path))
      if (bavail * bsize < Math.min(maxKeptFreeBytes, blocks * bsize * keptFreeShare)) throw diskFull()
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw code === 'ENOSPC' || code === 'EDQUOT' ? diskFull(error) : error
  }
}

function diskFull (cause?: unknown): BerthError {
  return new BerthError('exhausted', 'disk_full', 'the host has not enough disk space left to decompress the image; free some or use a smaller image', { cause })
}
