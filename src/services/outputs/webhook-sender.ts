import { Agent, request } from 'undici'
import { Webhook } from 'standardwebhooks'
import { SinkBusy, SinkRefusal } from './output-sink.ts'

export interface WebhookMessage {
  url: string
  /** The same each time the same content is sent. */
  id: string
  body: string
  key?: Buffer | undefined
}

/** For the connection, for the head of the answer, and for its body. */
const timeoutMs = 10_000
const maxAnswerBytes = 64 * 1024
const longestRetryAfterMs = 600_000
/** Connections to one receiver, and requests under way to it. */
const connectionsPerOrigin = 16

/** Posts messages, signed as Standard Webhooks describe (https://www.standardwebhooks.com). Follows no redirects. */
export class WebhookSender {
  // Each time counts from when a connection is free: those that wait for one are not late.
  readonly #agent = new Agent({
    connections: connectionsPerOrigin,
    pipelining: 1,
    maxResponseSize: maxAnswerBytes,
    connect: { timeout: timeoutMs },
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    keepAliveTimeout: 15_000,
  })

  /**
   * Resolves once the receiver has said 2xx.
   *
   * @throws SinkRefusal for 410: it wants no more. SinkBusy where it says when to come again. Error for everything else: what
   * is wrong with a receiver, people mend.
   */
  async send ({ url, id, body, key }: WebhookMessage, signal: AbortSignal): Promise<void> {
    const now = new Date()
    const headers: Record<string, string> = {
      'content-type': 'application/json',
      'user-agent': 'berth',
      'webhook-id': id,
      'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
    }
    if (key) headers['webhook-signature'] = new Webhook(key, { format: 'raw' }).sign(id, now, body)
    const answer = await request(url, { method: 'POST', headers, body, dispatcher: this.#agent, signal })
      .catch(error => { throw new Error(`the receiver cannot be reached (${reasonOf(error)})`, { cause: error }) })
    // What it says is of no interest, but read, so that the connection can be used again.
    await answer.body.dump({ limit: maxAnswerBytes, signal: AbortSignal.timeout(timeoutMs) }).catch(() => undefined)
    const { statusCode } = answer
    if (statusCode >= 200 && statusCode < 300) return
    if (statusCode === 410) throw new SinkRefusal('the receiver answered 410: it wants no more')
    const message = `the receiver answered ${statusCode}`
    const retryAfterMs = readRetryAfter(answer.headers['retry-after'], now.getTime())
    throw retryAfterMs > 0 ? new SinkBusy(message, retryAfterMs) : new Error(message)
  }

  close (): Promise<void> {
    return this.#agent.destroy()
  }
}

/** Seconds or a date (RFC 9110, 10.2.3) in milliseconds from now, at most 10 minutes; 0 for none that can be read. */
export function readRetryAfter (value: string | string[] | undefined, now: number): number {
  const text = String(value ?? '')
  const ms = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now
  return Number.isFinite(ms) ? Math.min(longestRetryAfterMs, Math.max(0, ms)) : 0
}

function reasonOf (error: unknown): string {
  const { code } = error as { code?: unknown }
  return typeof code === 'string' ? code : 'unknown error'
}
