/** Streams of an answer's bytes, cut into lines and into messages. Lines that never end are refused: they would fill the memory. */

const longestLine = 4 * 1024 * 1024

/** The lines of a body of UTF-8, without their ends; a last one without an end counts. */
export async function * readLines (body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      const text = done ? decoder.decode() : decoder.decode(value, { stream: true })
      const lines = (rest + text).split('\n')
      rest = lines.pop()!
      for (const line of lines) yield line.endsWith('\r') ? line.slice(0, -1) : line
      if (done) break
      if (rest.length > longestLine) throw new Error('a line of the answer is too long')
    }
    if (rest !== '') yield rest
  } finally {
    await reader.cancel().catch(() => {})
  }
}

/** A line, a value. Empty lines do not count. */
export async function * readNdjson<T> (body: ReadableStream<Uint8Array>): AsyncGenerator<T> {
  for await (const line of readLines(body)) if (line !== '') yield JSON.parse(line) as T
}

export interface SseMessage {
  event: string
  data: string
  id?: string
}

/** Messages of a text/event-stream. `onComment` is told of each comment: a sign of life. */
export async function * readSse (body: ReadableStream<Uint8Array>, onComment?: () => void): AsyncGenerator<SseMessage> {
  let message: { event: string, data: string[], id?: string } = { event: 'message', data: [] }
  for await (const line of readLines(body)) {
    if (line === '') {
      if (message.data.length > 0) yield { ...message, data: message.data.join('\n') }
      message = { event: 'message', data: [] }
    } else if (line.startsWith(':')) {
      onComment?.()
    } else {
      const [, name, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line)!
      if (name === 'data') message.data.push(value)
      else if (name === 'event') message.event = value
      else if (name === 'id') message.id = value
    }
  }
}
