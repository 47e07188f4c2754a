import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { BerthError } from '../errors.ts'
import { maxBatchTasks, type TaskBatchResult, type TaskCreate } from '../schemas/task.ts'
import type { Shell } from './shell.ts'

export interface TaskFile {
  /** A path, or - for standard input. */
  path: string
  /** What a line does not say. */
  defaults: Partial<TaskCreate>
  json: boolean
}

interface Line {
  number: number
  task: object
  bytes: number
}

// Below what the daemon takes in one request, 16 MiB.
const maxCallBytes = 12 * 1024 ** 2

/**
 * Queues the tasks of a file, a JSON object a line, and prints their ids in its order. They go in calls of up to 1000: each
 * call is queued as a whole or not at all, and repeated under the same key when its answer is lost.
 */
export async function submitTaskFile (shell: Shell, file: TaskFile): Promise<number> {
  const source = file.path === '-' ? shell.context.stdin : createReadStream(file.path)
  let queued = 0
  try {
    for await (const lines of batches(readLines(source, file))) {
      const { items } = await shell.client().request<TaskBatchResult>('POST', '/v1/tasks', { body: { tasks: lines.map(({ task }) => task) } })
        .catch(error => { throw inLines(error, lines) })
      for (const task of items) await shell.output.line(file.json ? JSON.stringify(task) : task.id)
      queued += items.length
    }
  } catch (error) {
    throw explain(error, file, queued)
  }
  return 0
}

async function * readLines (source: Readable, { defaults }: TaskFile): AsyncGenerator<Line> {
  let number = 0
  const reader = createInterface({ input: source, crlfDelay: Infinity })
  // The reader itself tells nobody of a source that fails.
  const failed = Promise.withResolvers<never>()
  failed.promise.catch(() => {})
  source.once('error', failed.reject)
  const lines = reader[Symbol.asyncIterator]()
  for (;;) {
    const next = await Promise.race([lines.next(), failed.promise])
    if (next.done) return
    number++
    const text = next.value
    if (text.trim() !== '') yield { number, task: { ...defaults, ...parse(text, number) }, bytes: Buffer.byteLength(text) }
  }
}

function parse (text: string, number: number): object {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new BerthError('invalid_argument', 'usage', `line ${number} is not JSON; each line is the object of one task`, { cause })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BerthError('invalid_argument', 'usage', `line ${number} is not an object; each line is the object of one task`)
  return value
}

async function * batches (lines: AsyncIterable<Line>): AsyncGenerator<Line[]> {
  let batch: Line[] = []
  let bytes = 0
  for await (const line of lines) {
    if (batch.length === maxBatchTasks || (batch.length > 0 && bytes + line.bytes > maxCallBytes)) {
      yield batch
      batch = []
      bytes = 0
    }
    batch.push(line)
    bytes += line.bytes
  }
  if (batch.length > 0) yield batch
}

/** The daemon counts in its batch; the person in the file. */
function inLines (error: unknown, lines: Line[]): unknown {
  if (!(error instanceof BerthError)) return error
  const message = error.message.replaceAll(/\btasks\[(\d+)\](\.|: )?/g, (_found, index: string, more?: string) => `line ${lines[Number(index)]?.number ?? '?'}${more ? ': ' : ''}`)
  return new BerthError(error.kind, error.code, message, { cause: error, ...(error.details && { details: error.details }) })
}

function explain (error: unknown, { path }: TaskFile, queued: number): unknown {
  const before = queued === 0 ? '' : `; the ${queued} before are queued`
  const name = path === '-' ? 'standard input' : path
  if (error instanceof BerthError) {
    if (error.kind !== 'invalid_argument') return queued === 0 ? error : new BerthError(error.kind, error.code, `${error.message}${before}`, { cause: error, ...(error.details && { details: error.details }) })
    return new BerthError(error.kind, error.code, `${name}: ${error.message}${before}`, { cause: error })
  }
  const { code, syscall } = error as NodeJS.ErrnoException
  if (syscall === 'open' || syscall === 'read') return new BerthError('invalid_argument', 'usage', `--file: cannot read ${path} (${code})${before}`, { cause: error })
  return error
}
