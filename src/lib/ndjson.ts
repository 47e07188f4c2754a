const newline = 10
// Far above any record that is written; a peer that sends no line end must not fill our memory.
const defaultMaxLineBytes = 64 * 1024 ** 2

export interface NdjsonOptions {
  maxLineBytes?: number
  /** Makes the error of a line that is none; `problem` goes on from "sent …". */
  refuse: (problem: string, cause?: unknown) => Error
}

/** The values of a stream of JSON lines, one at a time; holds no more than one line and one chunk. */
export async function * parseNdjson<T> (chunks: AsyncIterable<Buffer>, { maxLineBytes = defaultMaxLineBytes, refuse }: NdjsonOptions): AsyncGenerator<T> {
  let held: Buffer[] = []
  let heldBytes = 0
  for await (const chunk of chunks) {
    let start = 0
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
      held.push(chunk.subarray(start, end))
      const line = held.length === 1 ? held[0]! : Buffer.concat(held)
      held = []
      heldBytes = 0
      start = end + 1
      if (line.length > 0) yield parseLine<T>(line, refuse)
    }
    if (start === chunk.length) continue
    held.push(chunk.subarray(start))
    heldBytes += chunk.length - start
    if (heldBytes > maxLineBytes) throw refuse(`a line of more than ${maxLineBytes} bytes`)
  }
  // What is left without a line end is half a record of a stream that broke: its place is read again.
}

function parseLine<T> (line: Buffer, refuse: NdjsonOptions['refuse']): T {
  try {
    return JSON.parse(line.toString('utf8')) as T
  } catch (cause) {
    throw refuse('a line that is not JSON', cause)
  }
}
