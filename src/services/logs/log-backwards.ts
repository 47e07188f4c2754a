/** Reading a log from its end: where the last lines begin, and what a place's past means for what follows. */
import type { FileHandle } from 'node:fs/promises'
import type { LogStream } from '../../schemas/log.ts'
import type { LogPosition, SplitCharacters } from './log-cursor.ts'
import { openLogFile } from './log-files.ts'
import { maxHeadBytes, maxLineBytes, parseLineHead, unfinishedBytes } from './log-line.ts'
import { noSplit } from './log-parser.ts'

const blockBytes = 64 * 1024
const newline = 0x0a

/** How far back to look for a character that was split before a place whose cursor does not say it. */
const splitLookBackBytes = 64 * 1024

interface BackwardLine {
  start: number
  /** Offset just behind the text. */
  textEnd: number
  /** Offset just behind the line, its line end included. */
  end: number
  at: string
  stream: LogStream
  partial: boolean
  textStart: number
}

/**
 * The readable lines of file[0, end), last first, in constant memory, at least down to `floor`.
 * `end` must be where a line begins or where the file ends.
 */
async function * linesBackwards (handle: FileHandle, end: number, floor = 0): AsyncGenerator<BackwardLine> {
  const buffer = Buffer.allocUnsafe(1 + blockBytes + maxHeadBytes)
  let lineEnd = end
  let textEnd = end
  for (let blockEnd = end, blockStart = 0; blockEnd > floor; blockEnd = blockStart) {
    // The block's lines begin in [blockStart, blockEnd). The byte before tells whether one begins right there,
    // the bytes behind complete the head of the last.
    blockStart = Math.max(0, blockEnd - blockBytes)
    const origin = Math.max(0, blockStart - 1)
    const { bytesRead } = await handle.read(buffer, 0, Math.min(end, blockEnd + maxHeadBytes) - origin, origin)
    const bytes = buffer.subarray(0, bytesRead)
    if (lineEnd === end && bytes[end - 1 - origin] === newline) textEnd = end - 1
    let start = lineStartBefore(bytes, origin, blockEnd)
    while (start >= blockStart) {
      const isTooLong = textEnd - start > maxLineBytes
      const head = isTooLong ? undefined : parseLineHead(bytes, start - origin, Math.min(textEnd - origin, bytesRead))
      if (head) yield { ...head, start, textEnd, end: lineEnd, textStart: origin + head.textStart }
      lineEnd = start
      textEnd = start - 1
      start = start === 0 ? -1 : lineStartBefore(bytes, origin, start)
    }
  }
}

/** The last place before `limit` where a line begins, or -1 when it lies before the bytes, which are those from `origin` on. */
function lineStartBefore (bytes: Buffer, origin: number, limit: number): number {
  const from = limit - 2 - origin
  const at = from < 0 ? -1 : bytes.lastIndexOf(newline, from)
  if (at !== -1) return origin + at + 1
  return origin === 0 ? 0 : -1
}

/** Offset behind the last line end before `size`, or 0. */
async function lastLineEnd (handle: FileHandle, size: number): Promise<number> {
  const buffer = Buffer.allocUnsafe(blockBytes)
  for (let end = size; end > 0;) {
    const start = Math.max(0, end - blockBytes)
    const { bytesRead } = await handle.read(buffer, 0, end - start, start)
    const at = buffer.subarray(0, bytesRead).lastIndexOf(newline)
    if (at !== -1) return start + at + 1
    end = start
  }
  return 0
}

/**
 * Where the last `count` lines of the stream (or of both) begin, looking back from `end`.
 * A line counts where it ends; one that is still unfinished at `end` counts too. undefined: there are not that many.
 */
export async function findTail (options: {
  dir: string, end: LogPosition, isEnded: boolean, count: number, stream?: LogStream | undefined, floor: LogPosition
}): Promise<LogPosition | undefined> {
  // The end is found without looking for the stream's last line, which may be far back or nowhere.
  if (options.count === 0) return await endOfLines(options.dir, options.end, options.isEnded)
  const seen = new Set<LogStream>()
  let left = options.count
  for (let generation = options.end.generation; generation >= options.floor.generation; generation--) {
    await using file = await openExactly(options.dir, generation)
    // The file of a place where nothing is written yet need not be there.
    if (!file && generation === options.end.generation && options.end.offset === 0) continue
    if (!file) return undefined
    const isLast = generation === options.end.generation
    const size = isLast ? options.end.offset : (await file.handle.stat()).size
    const end = isLast && !options.isEnded ? await lastLineEnd(file.handle, size) : size
    for await (const line of linesBackwards(file.handle, end)) {
      if (options.stream !== undefined && line.stream !== options.stream) continue
      const endsLine = !line.partial || !seen.has(line.stream)
      seen.add(line.stream)
      if (endsLine && left-- === 0) return { generation, offset: line.end }
    }
  }
  return undefined
}

async function endOfLines (dir: string, end: LogPosition, isEnded: boolean): Promise<LogPosition> {
  await using file = await openExactly(dir, end.generation)
  return file && !isEnded ? { ...end, offset: await lastLineEnd(file.handle, end.offset) } : end
}

export interface SplitBefore {
  split: SplitCharacters
  splitAt: Record<LogStream, string>
}

/** The bytes of characters that partial lines before a place broke off in, and when they were read; nothing before the floor counts. */
export async function splitBefore (dir: string, position: LogPosition, floor: LogPosition): Promise<SplitBefore> {
  const found: SplitBefore = { split: { ...noSplit }, splitAt: { stdout: '', stderr: '' } }
  const open = new Set<LogStream>(['stdout', 'stderr'])
  let budget = splitLookBackBytes
  for (let generation = position.generation; generation >= floor.generation && budget > 0 && open.size > 0; generation--) {
    const isFirst = generation === position.generation
    await using file = await openExactly(dir, generation)
    if (!file && !isFirst) break
    if (!file) continue
    const end = isFirst ? position.offset : (await file.handle.stat()).size
    const floorOffset = generation === floor.generation ? floor.offset : 0
    await collectSplit(file.handle, end, Math.max(floorOffset, end - budget), open, found)
    budget -= end
  }
  for (const stream of ['stdout', 'stderr'] as const) {
    const bytes = found.split[stream]
    found.split[stream] = bytes.subarray(bytes.length - unfinishedBytes(bytes, 0, bytes.length))
  }
  return found
}

async function collectSplit (handle: FileHandle, end: number, floor: number, open: Set<LogStream>, { split, splitAt }: SplitBefore): Promise<void> {
  for await (const line of linesBackwards(handle, end, floor)) {
    if (line.start < floor) return
    // A stream without a line of its own near by gets the time of the other's.
    for (const stream of ['stdout', 'stderr'] as const) splitAt[stream] ||= line.at
    if (!open.has(line.stream)) continue
    if (!line.partial) {
      open.delete(line.stream)
    } else {
      // An unfinished character is at most 3 bytes, which may lie in several partial lines.
      const length = Math.min(3, line.textEnd - line.textStart)
      const bytes = Buffer.alloc(length)
      await handle.read(bytes, 0, length, line.textEnd - length)
      split[line.stream] = Buffer.concat([bytes, split[line.stream]])
      if (split[line.stream].length >= 3) open.delete(line.stream)
    }
    if (open.size === 0) return
  }
}

async function openExactly (dir: string, generation: number): Promise<({ handle: FileHandle } & AsyncDisposable) | undefined> {
  if (generation < 0) return undefined
  const file = await openLogFile(dir, generation)
  if (!file) return undefined
  const { handle } = file
  if (file.generation !== generation) {
    await handle.close()
    return undefined
  }
  return { handle, [Symbol.asyncDispose]: () => handle.close() }
}
