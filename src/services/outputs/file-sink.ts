/** Output into a file in the output directory of the host: the bytes as they came, or NDJSON. */
import { constants } from 'node:fs'
import { lstat, mkdir, open, readFile, writeFile, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { Mutex } from 'async-mutex'
import { dataJson } from './entry-json.ts'
import type { SinkRequest } from './open-sink.ts'
import { SinkRefusal, type OutputEntry, type OutputSink, type SinkState } from './output-sink.ts'

const plainName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/
/** In the output directory: who writes which file. No file of an output can have this name. */
const ownersName = '.owners'
const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK
const claiming = new Mutex()

/**
 * Opens the file and cuts it to what was confirmed, so that nothing is in it twice.
 * A name belongs to the output that took it first, for as long as the file is there.
 *
 * @throws SinkRefusal where another output has the name, or it is no plain file. Anything else, as a full disk, passes.
 */
export async function openFileSink ({ taskId, spec, index, state }: SinkRequest, dir: string): Promise<OutputSink> {
  const { format = 'text' } = spec
  const name = spec.name ?? `${taskId}.${format === 'text' ? 'log' : 'ndjson'}`
  if (!plainName.test(name)) throw new SinkRefusal('the name of the file is no plain file name')
  const file = await claiming.runExclusive(async () => {
    await mkdir(join(dir, ownersName), { recursive: true, mode: 0o750 }).catch(passing)
    await claim(dir, name, `${taskId} ${index}`)
    return await openPlain(join(dir, name))
  })
  try {
    let size = await cutTo(file, state)
    return {
      limits: { batchBytes: 256 * 1024, batchEntries: 4000, batchesInFlight: 1, entryBytes: 64 * 1024 },
      write: async batch => {
        const bytes = format === 'text' ? textOf(batch) : Buffer.from(batch.map(entry => ndjsonOf(taskId, entry)).join(''))
        for (let done = 0; done < bytes.length;) done += (await file.write(bytes, done).catch(passing)).bytesWritten
        size += bytes.length
        return { size }
      },
      close: async () => {
        try {
          await file.sync().catch(passing)
        } finally {
          await file.close()
        }
      },
    }
  } catch (error) {
    await file.close()
    throw error
  }
}

async function claim (dir: string, name: string, owner: string): Promise<void> {
  const mark = join(dir, ownersName, name)
  const marked = await readFile(mark, 'utf8').catch(ignoreMissing)
  if (marked === owner) return
  const isThere = await lstat(join(dir, name)).then(() => true, ignoreMissing) ?? false
  // A mark that was not written whole belongs to a file that nobody has written to.
  if (marked && isThere) throw new SinkRefusal('another output has a file of this name already; choose another name')
  if (isThere && marked === undefined) throw new SinkRefusal('there is a file of this name already that no output has written; choose another name')
  await writeFile(mark, owner, { mode: 0o640 }).catch(passing)
}

async function openPlain (path: string): Promise<FileHandle> {
  const file = await open(path, flags, 0o640).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ELOOP' || error.code === 'ENXIO' || error.code === 'EISDIR') throw notPlain(error)
    return passing(error)
  })
  const stats = await file.stat()
  if (stats.isFile() && stats.nlink <= 1) return file
  await file.close()
  throw notPlain()
}

/** Answers the size of the file. One that is shorter than what was confirmed was cut by somebody else, who wants it so. */
async function cutTo (file: FileHandle, state: SinkState): Promise<number> {
  const confirmed = typeof state?.['size'] === 'number' ? state['size'] : 0
  const { size } = await file.stat()
  if (size <= confirmed) return size
  await file.truncate(confirmed).catch(passing)
  return confirmed
}

function textOf (batch: readonly OutputEntry[]): Buffer {
  return Buffer.concat(batch.flatMap(({ data, isLineEnd, isGap }) => {
    if (isGap) return [Buffer.from(`--- gap: ${data.toString()} ---\n`)]
    return isLineEnd ? [data, Buffer.from('\n')] : [data]
  }))
}

function ndjsonOf (taskId: string, { seq, at, stream, data, isLineEnd, isGap }: OutputEntry): string {
  return `${JSON.stringify({ task_id: taskId, seq, time: at, stream, ...dataJson(data), line_end: isLineEnd, ...(isGap ? { gap: true } : {}) })}\n`
}

/** What clients see names no path of the host. */
function passing (error: NodeJS.ErrnoException): never {
  throw new Error(`the file cannot be written at the moment (${error.code ?? 'unknown error'})`, { cause: error })
}

function notPlain (cause?: unknown): SinkRefusal {
  return new SinkRefusal('what has this name in the output directory is no plain file', { cause })
}

function ignoreMissing (error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') passing(error)
}
