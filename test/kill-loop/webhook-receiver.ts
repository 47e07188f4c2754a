/** Takes what webhooks are posted, badly: it refuses, breaks off, or takes a batch and says that it did not; and is down for a time. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Teardown } from '../support/test-daemon.ts'
import type { Random } from './random.ts'

const refusedShare = 0.15
const brokenOffShare = 0.1
const deniedShare = 0.15

interface Posted { seq: number, bytes: Buffer }

export class WebhookReceiver {
  /** Answers nothing but 503. */
  isDown = false
  readonly url: string
  readonly #random: Random
  readonly #posted = new Map<string, Posted[]>()

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

  /** What was posted to a path, each entry once and by its number; and what is wrong with how it came. */
  receivedAt (path: string): { bytes: Buffer, problems: string[] } {
    const posted = this.#posted.get(path) ?? []
    const bySeq = new Map<number, Buffer>()
    const problems: string[] = []
    let highest = -1
    for (const { seq, bytes } of posted) {
      const before = bySeq.get(seq)
      if (before && !before.equals(bytes)) problems.push(`entry ${seq} came twice, and not the same`)
      if (seq > highest + 1) problems.push(`entry ${seq} came before ${highest + 1}`)
      highest = Math.max(highest, seq)
      bySeq.set(seq, bytes)
    }
    return { bytes: Buffer.concat(Array.from(bySeq).sort(([a], [b]) => a - b).map(([, bytes]) => bytes)), problems }
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
    const path = request.url ?? ''
    const posted = this.#posted.get(path) ?? []
    posted.push(...readEntries(Buffer.concat(chunks)))
    this.#posted.set(path, posted)
    response.writeHead(luck < refusedShare + brokenOffShare + deniedShare ? 500 : 204).end()
  }
}

/** One batch as it is posted. */
interface PostedBatch { entries: Array<{ seq: number, data: string, encoding?: 'base64', isLineEnd?: boolean }> }

function readEntries (body: Buffer): Posted[] {
  const { entries } = JSON.parse(body.toString()) as PostedBatch
  return entries.map(({ seq, data, encoding, isLineEnd }) => ({ seq, bytes: Buffer.concat([Buffer.from(data, encoding ?? 'utf8'), Buffer.from(isLineEnd === false ? '' : '\n')]) }))
}
