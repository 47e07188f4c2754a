import type { WireAnswer } from './registry-connections.ts'
import { invalidAnswer, transportError, unavailable, type ErrorSubject } from './registry-errors.ts'

interface BodyLimits {
  subject: ErrorSubject
  maxBytes: number
  /** For the whole body: a server that sends a byte now and then is no use. */
  timeoutMs: number
  signal?: AbortSignal
}

/** Reads a small body whole, and closes the connection when it is larger or slower than allowed. */
export async function readBody (answer: WireAnswer, limits: BodyLimits): Promise<Buffer> {
  const { body } = answer
  const tooSlow = unavailable(limits.subject, 'it stopped sending')
  const timer = setTimeout(() => body.destroy(tooSlow), limits.timeoutMs)
  const chunks: Buffer[] = []
  let size = 0
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length
      if (size > limits.maxBytes) throw invalidAnswer(limits.subject, `an answer is larger than ${limits.maxBytes} bytes`)
      chunks.push(chunk)
    }
    return Buffer.concat(chunks, size)
  } catch (error) {
    limits.signal?.throwIfAborted()
    throw transportError(limits.subject, error)
  } finally {
    clearTimeout(timer)
    body.destroy()
  }
}

/** Lets go of a body that nobody needs; a short one leaves its connection usable. */
export async function discardBody (answer: WireAnswer): Promise<void> {
  // Errors behind the status line change nothing about the answer.
  await answer.body.dump({ limit: 64 * 1024, signal: AbortSignal.timeout(2_000) }).catch(() => undefined)
}
