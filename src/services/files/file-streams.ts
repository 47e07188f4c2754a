import { Readable } from 'node:stream'
import { BerthError } from '../../errors.ts'
import { pollUntil } from '../../lib/poll.ts'
import type { FileChange } from '../../schemas/file.ts'
import { parseChange } from './file-answers.ts'
import { brokenAnswer } from './file-problems.ts'
import type { FileRun } from './file-run.ts'

/** How long after the processes of a sandbox its own end may be noticed. */
const seenWithinMs = 2000
const chunkBytes = 256 * 1024

/**
 * What a run still has to say, as bytes; the run is over when they are, or when nobody wants them any more.
 *
 * @param lengthBytes so many, no more; fewer are an error. undefined: all until it has ended, and well.
 */
export function bytesOf (run: FileRun, lengthBytes: number | undefined): Readable {
  const chunks = lengthBytes === undefined ? untilEnd(run) : exactly(run, lengthBytes)
  const body = Readable.from(chunks, { objectMode: false, highWaterMark: chunkBytes })
  // Also where nobody has begun to read it.
  body.once('close', () => void run.close().catch(() => {}))
  return body
}

async function * exactly (run: FileRun, lengthBytes: number): AsyncGenerator<Buffer> {
  for (let left = lengthBytes; left > 0;) {
    const chunk = await run.read()
    if (!chunk) throw brokenAnswer('ended before all of the file had come; it may have been cut meanwhile')
    yield chunk.length > left ? chunk.subarray(0, left) : chunk
    left -= chunk.length
  }
}

async function * untilEnd (run: FileRun): AsyncGenerator<Buffer> {
  for (let chunk = await run.read(); chunk; chunk = await run.read()) yield chunk
  await run.end()
}

/** The changes that a run tells of; they end when the sandbox does. */
export async function * changesOf (run: FileRun, isSandboxEnding: () => boolean): AsyncGenerator<FileChange> {
  try {
    for (let line = await run.line(); line; line = await run.line()) yield parseChange(line)
    await run.end()
  } catch (error) {
    if (error instanceof BerthError && error.code === 'sandbox_ended') return
    // What ends with its sandbox may be seen to end before it.
    if (!await pollUntil(async () => isSandboxEnding(), seenWithinMs)) throw error
  } finally {
    void run.close().catch(() => {})
  }
}
