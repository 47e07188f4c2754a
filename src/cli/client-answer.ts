import type http from 'node:http'
import type { Readable } from 'node:stream'
import { BerthError, errorKinds } from '../errors.ts'
import type { ErrorBody } from '../schemas/wire.ts'

/** Sends a body once the daemon has nothing against it: what it refuses is not sent, so that its answer is not lost with the connection. */
export function sendUpload (source: Readable, outgoing: http.ClientRequest, fail: (error: Error) => void): void {
  source.once('error', error => {
    fail(error instanceof BerthError ? error : new BerthError('invalid_argument', 'source_unreadable', `what is to be sent cannot be read: ${error.message}`, { cause: error }))
    outgoing.destroy()
  })
  outgoing.once('close', () => source.destroy())
  outgoing.once('continue', () => source.pipe(outgoing))
  outgoing.flushHeaders()
}

export async function readText (answer: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of answer) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('utf8')
}

export function parseAnswer<T> (text: string): T {
  try {
    return JSON.parse(text) as T
  } catch (cause) {
    throw new BerthError('internal', 'bad_answer', 'the answer is not JSON; do BERTH_URL or BERTH_SOCKET point to berth?', { cause })
  }
}

export function badAnswer (problem: string, cause?: unknown): BerthError {
  return new BerthError('internal', 'bad_answer', `the daemon sent ${problem}; do BERTH_URL or BERTH_SOCKET point to berth?`, { cause })
}

export function parseErrorBody (text: string): ErrorBody | undefined {
  try {
    const body = JSON.parse(text) as Partial<ErrorBody> | null
    if (typeof body?.code === 'string' && typeof body.message === 'string' && Object.hasOwn(errorKinds, body.kind ?? '')) return body as ErrorBody
  } catch {}
  return undefined
}
