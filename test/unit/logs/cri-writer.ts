/** Writes output as conmon does: CRI lines of at most 8 KiB of text, in files that are rotated. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import type { LogRecord, LogStream } from '../../../src/schemas/log.ts'
import { recordBytes } from '../../../src/services/logs/log-bytes.ts'

const newline = 0x0a

/** What one read from the process gave. */
export interface Write {
  stream: LogStream
  bytes: Buffer
  /** The files are rotated behind it. */
  rotates: boolean
}

const at = '2026-11-22T13:30:19.628000000+00:00'

/** Each line of a piece of output is F, what is left at its end P: the next piece goes on with it. */
export function criLines ({ stream, bytes }: Write, pieceBytes: number): Buffer[] {
  const lines: Buffer[] = []
  for (let start = 0; start < bytes.length;) {
    const found = bytes.indexOf(newline, start)
    const lineEnd = found === -1 ? bytes.length : found
    const end = Math.min(lineEnd, start + pieceBytes)
    const isWhole = end === found
    lines.push(Buffer.concat([Buffer.from(`${at} ${stream} ${isWhole ? 'F' : 'P'} `), bytes.subarray(start, end), Buffer.from('\n')]))
    start = isWhole ? end + 1 : end
  }
  return lines
}

/** The files of a log, oldest first. */
export function criFiles (writes: readonly Write[], pieceBytes: number): Buffer[] {
  const files: Buffer[][] = [[]]
  for (const write of writes) {
    files.at(-1)!.push(...criLines(write, pieceBytes))
    if (write.rotates) files.push([])
  }
  return files.map(lines => Buffer.concat(lines))
}

export async function writeFiles (dir: string, files: readonly Buffer[]): Promise<void> {
  for (const [generation, content] of files.entries()) await writeFile(join(dir, generation === files.length - 1 ? 'log' : `log.${generation}`), content)
}

/** What the process wrote to its streams, or to one. */
export function output (writes: readonly Write[], stream?: LogStream): Record<LogStream, string> {
  const of = (one: LogStream) => stream !== undefined && stream !== one ? '' : Buffer.concat(writes.filter(write => write.stream === one).map(({ bytes }) => bytes)).toString('hex')
  return { stdout: of('stdout'), stderr: of('stderr') }
}

/** What records say that it wrote. */
export function outputOf (records: readonly LogRecord[]): Record<LogStream, string> {
  const of = (one: LogStream) => Buffer.concat(records.flatMap(record => record.type === 'line' && record.stream === one ? [recordBytes(record)] : [])).toString('hex')
  return { stdout: of('stdout'), stderr: of('stderr') }
}

const pieces = [
  fc.constantFrom('\n', '\n\n', '\r\n', '\r', 'a', 'progress 1%\rprogress 2%\r', ' ', '\0', 'é', '€', '🦀', '🦀🦀\n', '\u{feff}', '2026-11-22T13:30:19.6+00:00 stdout F x\n')
    .map(text => Buffer.from(text)),
  fc.uint8Array({ maxLength: 8 }).map(bytes => Buffer.from(bytes)),
  // Beginnings and ends of characters, and what never is one.
  fc.constantFrom('e2', 'e282', '82ac', 'f09f', 'f09fa6', '80', 'ff', 'c0af', 'eda080').map(hex => Buffer.from(hex, 'hex')),
]

/** Random output: text and bytes, split anywhere, of both streams, rotated at times. */
export const anyWrites: fc.Arbitrary<Write[]> = fc.array(fc.record({
  stream: fc.constantFrom<LogStream>('stdout', 'stderr'),
  bytes: fc.array(fc.oneof(...pieces), { maxLength: 6 }).map(parts => Buffer.concat(parts)),
  rotates: fc.nat(9).map(number => number === 0),
}), { maxLength: 25 })

export const anyPieceBytes = fc.constantFrom(1, 2, 3, 5, 8192)
