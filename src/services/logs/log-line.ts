/** One physical line of conmon's k8s-file log: `<ISO time> stdout|stderr F|P <bytes>`. P: the line goes on in the next one. */
import type { LogStream } from '../../schemas/log.ts'

export interface LogLineHead {
  at: string
  stream: LogStream
  partial: boolean
  /** Offset of the first byte of text in the buffer that was parsed. */
  textStart: number
}

/** Longest head that conmon writes, with room: 35 bytes of time with nanoseconds, then ` stdout F `. */
export const maxHeadBytes = 64

/** conmon's lines are at most 8 KiB of text; what is longer than this was not written by conmon. */
export const maxLineBytes = 1024 * 1024

const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/
const kindLength = 10
const kinds = new Map<string, { stream: LogStream, partial: boolean }>([
  [' stdout F ', { stream: 'stdout', partial: false }],
  [' stdout P ', { stream: 'stdout', partial: true }],
  [' stderr F ', { stream: 'stderr', partial: false }],
  [' stderr P ', { stream: 'stderr', partial: true }],
])

/** Reads the head of the line in bytes[start, end), which excludes the line end; undefined when it is none. */
export function parseLineHead (bytes: Buffer, start: number, end: number): LogLineHead | undefined {
  const space = bytes.indexOf(0x20, start)
  if (space === -1 || space + kindLength > end || space - start > maxHeadBytes) return undefined
  const kind = kinds.get(bytes.toString('latin1', space, space + kindLength))
  if (!kind) return undefined
  const at = bytes.toString('latin1', start, space)
  if (!time.test(at)) return undefined
  return { at, stream: kind.stream, partial: kind.partial, textStart: space + kindLength }
}

/** How many bytes (0–3) at the end of bytes[start, end) begin a UTF-8 sequence that is not finished there. */
export function unfinishedBytes (bytes: Buffer, start: number, end: number): number {
  for (let back = 1; back <= 3 && end - back >= start; back++) {
    const byte = bytes[end - back]!
    if ((byte & 0xc0) === 0x80) continue
    if (byte < 0xc2 || byte > 0xf4) return 0
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2
    return needed > back ? back : 0
  }
  return 0
}
