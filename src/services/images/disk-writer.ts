import { open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { diskFullError, freeDiskBytes, reservedDiskBytes } from '../../host/gztool.ts'

// How often free space is looked at: much less than what is kept free.
const checkBytes = 32 * 1024 ** 2

/**
 * Writes a file of unknown size. What is decompressed can be a thousand times what it was, so some of the disk stays
 * free for those who run.
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
      if (await freeDiskBytes(dirname(path)) < reservedDiskBytes) throw diskFullError()
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw code === 'ENOSPC' || code === 'EDQUOT' ? diskFullError(error) : error
  }
}
