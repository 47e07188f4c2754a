import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { getOrMake } from '../../lib/get-or-make.ts'
import type { FileChange, FileEntry, FileMatch, FileMatches, FilePage } from '../../schemas/file.ts'
import { prepareExec, type ExecPreparationParts } from '../execs/exec-preparation.ts'
import { startPlaced } from '../execs/placed-exec.ts'
import type { HostPlaces } from '../sandboxes/sandbox-places.ts'
import { parseEntry, parseMatch, parseSearchEnd } from './file-answers.ts'
import { cursorBehind, nameOfCursor, pathBytes } from './file-path.ts'
import { brokenAnswer } from './file-problems.ts'
import { fileProgramPath } from './file-protocol.ts'
import type { FileBytes, FileContent, FileInput, FileRange, FileSearch, FileTarget, FileWriteOptions } from './file-requests.ts'
import { FileRun, type SuccessHeader } from './file-run.ts'
import { bytesOf, changesOf } from './file-streams.ts'
import { feedFrames, spliceFrames } from './frame-feed.ts'

export interface FileManagerOptions extends ExecPreparationParts {
  places: HostPlaces
  logger: Logger
  /** How long a client, or a program, may stand still in the middle of a stream, in milliseconds. */
  stallMs?: number
  /** How long a call without a stream may take, in milliseconds. */
  deadlineMs?: number
}

interface CallOptions {
  signal: AbortSignal
  silenceMs?: number
  isKilledAtOnce?: boolean
}

type Argument = string | false | undefined

const maxCallsPerSandbox = 32
const defaultStallMs = 60_000
const defaultDeadlineMs = 30_000
/** To write back what was written, and to put it in its place, may take long on a slow disk. */
const commitMs = 300_000
/** Pipes of the size that an unprivileged process may ask for too: each turn of the program moves more. */
const pipeBytes = 1024 ** 2
/** From here on it pays to have another process move the bytes. */
const splicedBytes = 4 * 1024 ** 2
const bulkOperations: ReadonlySet<Argument> = new Set(['read', 'write', 'archive', 'extract'])
/** What a search may take beyond the time that it is given. */
const searchGraceMs = 5000

/** Files of sandboxes, through the program inside: nothing of a path is ever looked at on the host. */
export class FileManager {
  readonly #options: FileManagerOptions
  readonly #stallMs: number
  readonly #deadlineMs: number
  /** Under way, by sandbox. */
  readonly #calls = new Map<string, Set<symbol>>()
  readonly #runs = new Set<FileRun>()

  constructor (options: FileManagerOptions) {
    this.#options = options
    this.#stallMs = options.stallMs ?? defaultStallMs
    this.#deadlineMs = options.deadlineMs ?? defaultDeadlineMs
  }

  /** Ends what is under way. */
  async close (): Promise<void> {
    await Promise.all([...this.#runs].map(run => run.close()))
  }

  async stat (target: FileTarget, options: { follow: boolean, signal: AbortSignal }): Promise<FileEntry> {
    return entryOf(await this.#ask(target, ['stat', !options.follow && '--no-follow'], options.signal))
  }

  async list (target: FileTarget, options: { limit: number, cursor?: string | undefined, signal: AbortSignal }): Promise<FilePage> {
    const { limit, cursor, signal } = options
    const after = cursor === undefined ? undefined : nameOfCursor(cursor).toString('base64')
    return await this.#inTime(signal, async inTime => {
      const run = await this.#start(target, ['list', `--limit=${limit}`, after !== undefined && `--after=${after}`], { signal: inTime })
      return await using(run, async () => {
        const { hasMore } = await run.header()
        const items: FileEntry[] = []
        for (let line = await run.line(); line; line = await run.line()) {
          if (items.length === limit) throw brokenAnswer('listed more than was asked for')
          items.push(parseEntry(line))
        }
        await run.end()
        const last = items.at(-1)
        return { items, ...(hasMore && last ? { nextCursor: cursorBehind(last.name, last.encoding) } : {}) }
      })
    })
  }

  /** Rejects with what the sandbox refuses; after that the body comes, or breaks. */
  async read (target: FileTarget, options: { range?: FileRange | undefined, signal: AbortSignal }): Promise<FileContent> {
    const run = await this.#start(target, ['read', ...rangeArguments(options.range)], { signal: options.signal, silenceMs: this.#stallMs })
    return await onFailure(run, async () => {
      const header = await run.header()
      const entry = entryOf(header)
      const { lengthBytes, first = 0 } = header
      const content = { entry, first, lengthBytes, body: bytesOf(run, lengthBytes) }
      if (lengthBytes === undefined || lengthBytes < splicedBytes) return content
      const sendTo: FileContent['sendTo'] = (sink, begin) => using(run, () => run.sendTo(sink, { bytes: lengthBytes, stallMs: this.#stallMs, begin }))
      return { ...content, sendTo }
    })
  }

  /** Puts a file in its place when all of it has come: before that, and where it breaks off, what was there is as it was. */
  async write (target: FileTarget, options: FileWriteOptions): Promise<{ entry: FileEntry, isNew: boolean }> {
    const { mode, owner, parents, overwrite, sizeBytes } = options
    const header = await this.#feed(target, [
      'write', mode !== undefined && `--mode=${mode}`, owner !== undefined && `--owner=${owner}`, parents && '--parents', !overwrite && '--no-replace',
      sizeBytes !== undefined && `--size=${sizeBytes}`,
    ], options, sizeBytes)
    return { entry: entryOf(header), isNew: header.isNew ?? false }
  }

  async mkdir (target: FileTarget, options: { parents: boolean, mode?: string | undefined, signal: AbortSignal }): Promise<FileEntry> {
    return entryOf(await this.#ask(target, ['mkdir', options.parents && '--parents', options.mode !== undefined && `--mode=${options.mode}`], options.signal))
  }

  async move (target: FileTarget, options: { to: string, overwrite: boolean, parents: boolean, signal: AbortSignal }): Promise<FileEntry> {
    const { to, overwrite, parents, signal } = options
    const destination = pathBytes({ path: to, pathEncoding: target.pathEncoding }, 'to')
    // Between file systems it copies: that may take as long as it goes on, and is ended with its client.
    return entryOf(await this.#ask(target, ['move', !overwrite && '--no-replace', parents && '--parents'], signal, { others: [destination], deadlineMs: commitMs }))
  }

  async remove (target: FileTarget, options: { recursive: boolean, ignoreMissing: boolean, signal: AbortSignal }): Promise<{ removed: number }> {
    const { recursive, ignoreMissing, signal } = options
    const { removed } = await this.#ask(target, ['remove', recursive && '--recursive', ignoreMissing && '--ignore-missing'], signal, { deadlineMs: commitMs })
    if (removed === undefined) throw brokenAnswer('did not say what it removed')
    return { removed }
  }

  /** What a path leads to, as a tar. */
  async archive (target: FileTarget, options: { signal: AbortSignal }): Promise<FileBytes> {
    const run = await this.#start(target, ['archive'], { signal: options.signal, silenceMs: this.#stallMs })
    return await onFailure(run, async () => ({ entry: entryOf(await run.header()), body: bytesOf(run, undefined) }))
  }

  /** Unpacks a tar into a directory. */
  async extract (target: FileTarget, options: FileInput & { owner?: string | undefined, parents: boolean }): Promise<void> {
    await this.#feed(target, ['extract', options.owner !== undefined && `--owner=${options.owner}`, options.parents && '--parents'], options)
  }

  /** What happens to a path from here on; ends with the sandbox. */
  async watch (target: FileTarget, options: { recursive: boolean, signal: AbortSignal }): Promise<AsyncIterable<FileChange>> {
    const { recursive, signal } = options
    const run = await this.#start(target, ['watch', recursive && '--recursive'], { signal, silenceMs: this.#deadlineMs, isKilledAtOnce: true })
    await onFailure(run, () => run.header())
    run.allowSilence(undefined)
    const sandbox = this.#options.sandboxes.lifecycle(target.sandboxId)
    return changesOf(run, () => !['running', 'paused'].includes(sandbox.status))
  }

  async search (target: FileTarget, search: FileSearch & { signal: AbortSignal }): Promise<FileMatches> {
    const { name, text, regex, ignoreCase, limit, timeoutMs, signal } = search
    const args = [
      'search', name !== undefined && `--glob=${Buffer.from(name).toString('base64')}`, text !== undefined && `--text=${text}`, regex && '--regex', ignoreCase && '--ignore-case',
      `--limit=${limit}`, `--max-ms=${timeoutMs}`,
    ]
    return await this.#inTime(signal, async inTime => {
      const run = await this.#start(target, args, { signal: inTime, isKilledAtOnce: true })
      return await using(run, async () => {
        await run.header()
        const items: FileMatch[] = []
        for (let line = await run.line(); line; line = await run.line()) {
          if (line['done'] === true) return { items, ...parseSearchEnd(line) }
          if (items.length === limit) throw brokenAnswer('found more than was asked for')
          items.push(parseMatch(line))
        }
        throw brokenAnswer('ended before it was done')
      })
    }, timeoutMs + searchGraceMs)
  }

  /** One line in answer, and no more. */
  async #ask (target: FileTarget, args: Argument[], signal: AbortSignal, options: { others?: Buffer[], deadlineMs?: number } = {}): Promise<SuccessHeader> {
    return await this.#inTime(signal, async inTime => {
      const run = await this.#start(target, args, { signal: inTime }, options.others)
      return await using(run, () => run.header())
    }, options.deadlineMs)
  }

  /** Bytes in, one line in answer. */
  async #feed (target: FileTarget, args: Argument[], input: FileInput, bytes?: number): Promise<SuccessHeader> {
    const run = await this.#start(target, args, { signal: input.signal, silenceMs: this.#deadlineMs })
    return await using(run, async () => {
      const { isReady } = await run.header()
      if (!isReady) throw brokenAnswer('did not wait for what it shall write')
      run.allowSilence(undefined)
      // A refusal may come at any time, such as when the disk is full.
      const answer = run.header()
      answer.catch(() => {})
      await Promise.race([answer, this.#feedBody(run, input, bytes)])
      run.allowSilence(commitMs)
      return await answer
    })
  }

  async #feedBody (run: FileRun, { source, request, onReady = () => {} }: FileInput, bytes = 0): Promise<void> {
    if (request && bytes >= splicedBytes) return await spliceFrames(request, run, { bytes, stallMs: this.#stallMs, onHeld: onReady })
    onReady()
    await feedFrames(source, run.stdin, this.#stallMs)
  }

  async #start (target: FileTarget, args: Argument[], options: CallOptions, others: Buffer[] = []): Promise<FileRun> {
    const { sandboxId, user } = target
    const paths = [pathBytes(target), ...others].map(bytes => bytes.toString('base64'))
    const argv = [fileProgramPath, ...args.filter(argument => typeof argument === 'string'), '--base64', '--', ...paths]
    const [operation] = args
    const isBulk = bulkOperations.has(operation)
    // Of the sandbox's own environment nothing is wanted, and its working directory need not be there.
    const { sandbox, process } = await prepareExec(this.#options, sandboxId, { argv, cwd: '/', user, hasCleanEnv: true })
    options.signal.throwIfAborted()
    const release = this.#take(sandboxId)
    try {
      const placed = await startPlaced(this.#options.places, sandbox, process, isBulk ? { pipeBytes } : {})
      const run: FileRun = new FileRun(placed, {
        ...options,
        onEnded: ({ exitCode, stderr }) => {
          this.#runs.delete(run)
          release()
          if (stderr !== '') this.#options.logger.warn({ sandboxId, operation, exitCode, stderr }, 'the program that works on files inside a sandbox complained')
        },
      })
      this.#runs.add(run)
      return run
    } catch (error) {
      release()
      throw error
    }
  }

  #take (sandboxId: string): () => void {
    const calls = getOrMake(this.#calls, sandboxId, () => new Set<symbol>())
    if (calls.size >= maxCallsPerSandbox) {
      throw new BerthError('exhausted', 'too_many_file_calls', `at most ${maxCallsPerSandbox} calls work on files of a sandbox at once; wait for one to end`)
    }
    const call = Symbol('call')
    calls.add(call)
    return () => {
      calls.delete(call)
      if (calls.size === 0) this.#calls.delete(sandboxId)
    }
  }

  /** Aborts what takes too long, with an error that says so. */
  async #inTime<T> (signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>, deadlineMs = this.#deadlineMs): Promise<T> {
    const late = new AbortController()
    const error = new BerthError('timed_out', 'file_program_silent', `the sandbox did not answer within ${deadlineMs} ms; it may be paused, or too busy: try again`)
    const timer = setTimeout(() => late.abort(error), deadlineMs)
    try {
      return await work(AbortSignal.any([signal, late.signal]))
    } finally {
      clearTimeout(timer)
    }
  }
}

function entryOf ({ entry }: SuccessHeader): FileEntry {
  if (!entry) throw brokenAnswer('did not say of which file it speaks')
  return entry
}

function rangeArguments (range: FileRange | undefined): Argument[] {
  if (!range) return []
  if ('suffix' in range) return [`--suffix=${range.suffix}`]
  return [`--first=${range.first}`, range.last !== undefined && `--last=${range.last}`]
}

/** Work with a run that is over when the work is. */
async function using<T> (run: FileRun, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } finally {
    // The answer is known: nobody waits for the end of the program.
    void run.close().catch(() => {})
  }
}

async function onFailure<T> (run: FileRun, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    void run.close().catch(() => {})
    throw error
  }
}
