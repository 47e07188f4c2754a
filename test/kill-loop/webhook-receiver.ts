/** Takes what webhooks are posted, badly: it refuses, breaks off, or takes a batch and says that it did not; and is down for a time. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import type { Teardown } from '../support/test-daemon.ts'
import type { Random } from './random.ts'

const refusedShare = 0.15
const brokenOffShare = 0.1
const deniedShare = 0.15

interface Posted { seq: number, bytes: Buffer }
interface Messages { entries: Posted[], statuses: Posted[], unsigned: number }

/** What messages to a path are signed with. */
export const secretOf = (path: string) => `the secret of ${path}`

export class WebhookReceiver {
  /** Answers nothing but 503. */
  isDown = false
  readonly url: string
  readonly #random: Random
  readonly #posted = new Map<string, Messages>()

  private constructor (url: string, random: Random) {
    this.url = url
    this.#random = random
  }

  static async start (t: Teardown, random: Random): Promise<WebhookReceiver> {
    const server = createServer((request, response) => { receiver.#answer(request, response).catch(() => response.destroy()) })
    // Alone it keeps nobody running.
    server.unref().listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    })
    const receiver = new WebhookReceiver(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, random)
    return receiver
  }

  /** What was posted to a path: the output, the statuses as lines, and what is wrong with how they came. */
  receivedAt (path: string): { output: Buffer, statuses: string, problems: string[] } {
    const { entries, statuses, unsigned } = this.#messagesAt(path)
    const [output, story] = [putTogether('entry', entries), putTogether('status', statuses)]
    return { output: output.bytes, statuses: story.bytes.toString(), problems: [...output.problems, ...story.problems, ...unsigned > 0 ? [`${unsigned} messages were not signed as they should be`] : []] }
  }

  #messagesAt (path: string): Messages {
    const messages = this.#posted.get(path) ?? { entries: [], statuses: [], unsigned: 0 }
    this.#posted.set(path, messages)
    return messages
  }

  async #answer (request: IncomingMessage, response: ServerResponse): Promise<void> {
    const luck = this.#random()
    if (this.isDown || luck < refusedShare) {
      request.resume()
      response.writeHead(503).end()
      return
    }
    if (luck < refusedShare + brokenOffShare) {
      request.destroy()
      return
    }
    const chunks: Buffer[] = []
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk)
    const messages = this.#messagesAt(request.url ?? '')
    const body = Buffer.concat(chunks)
    try {
      new Webhook(secretOf(request.url ?? ''), { format: 'raw' }).verify(body, request.headers as Record<string, string>)
    } catch {
      messages.unsigned++
    }
    const { entries, statuses } = read(body)
    messages.entries.push(...entries)
    messages.statuses.push(...statuses)
    response.writeHead(luck < refusedShare + brokenOffShare + deniedShare ? 500 : 204).end()
  }
}

/** One message as it is posted: a batch of entries, or what became of the task. */
interface Message {
  entries?: Array<{ seq: number, data: string, encoding?: 'base64', lineEnd: boolean }>
  statuses?: Array<{ seq: number, status: string }>
}

/** Entries as bytes of output, statuses as lines, each under its own numbers. */
function read (body: Buffer): { entries: Posted[], statuses: Posted[] } {
  const { entries = [], statuses = [] } = JSON.parse(body.toString()) as Message
  return {
    entries: entries.map(({ seq, data, encoding, lineEnd }) => ({ seq, bytes: Buffer.concat([Buffer.from(data, encoding ?? 'utf8'), Buffer.from(lineEnd ? '\n' : '')]) })),
    statuses: statuses.map(({ seq, status }) => ({ seq, bytes: Buffer.from(`${status}\n`) })),
  }
}

/** Each of them once and by its number; and what is wrong with how they came. */
function putTogether (what: string, posted: readonly Posted[]): { bytes: Buffer, problems: string[] } {
  const bySeq = new Map<number, Buffer>()
  const problems: string[] = []
  let highest = -1
  for (const { seq, bytes } of posted) {
    const before = bySeq.get(seq)
    if (before && !before.equals(bytes)) problems.push(`${what} ${seq} came twice, and not the same`)
    if (seq > highest + 1) problems.push(`${what} ${seq} came before ${highest + 1}`)
    highest = Math.max(highest, seq)
    bySeq.set(seq, bytes)
  }
  return { bytes: Buffer.concat(Array.from(bySeq).sort(([a], [b]) => a - b).map(([, bytes]) => bytes)), problems }
}
