const newline = 10
/** Far above any record that a host sends. */
const maxMessageBytes = 4 * 1024 ** 2

/** A message of text/event-stream whose data is one line. https://html.spec.whatwg.org/multipage/server-sent-events.html */
export interface StreamMessage {
  /** Empty for the usual one. */
  event: string
  data: string
}

/**
 * The messages of an event stream, those of a chunk together; of a chunk that has none, as a comment is, an empty array. What is unfinished
 * when the stream ends is dropped: its place is read again. Throws an Error for a message that is too long to be one.
 */
export async function * readEventStream (chunks: AsyncIterable<Buffer>): AsyncGenerator<StreamMessage[]> {
  let held: Buffer[] = []
  let heldBytes = 0
  let message: StreamMessage = { event: '', data: '' }
  for await (const chunk of chunks) {
    const messages: StreamMessage[] = []
    let start = 0
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
      const rest = chunk.subarray(start, end)
      const line = (held.length === 0 ? rest : Buffer.concat([...held, rest])).toString()
      held = []
      heldBytes = 0
      start = end + 1
      if (line.startsWith('data: ')) message.data = line.slice(6)
      else if (line.startsWith('event: ')) message.event = line.slice(7)
      else if (line === '') {
        if (message.data !== '') messages.push(message)
        message = { event: '', data: '' }
      }
    }
    if (start < chunk.length) held.push(chunk.subarray(start))
    heldBytes += chunk.length - start
    if (heldBytes > maxMessageBytes) throw new Error(`a message of more than ${maxMessageBytes} bytes`)
    yield messages
  }
}
