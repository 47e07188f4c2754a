/** Calls of the gateway's own to hosts: small, and answered in one piece. */
import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { beginWhenConnected } from './http-passing.ts'
import type { WorkerLink } from './worker-links.ts'
import { WorkerUnreachableError } from './worker-problems.ts'

export interface WorkerQuestion {
  method: string
  /** Path and query. */
  target: string
  json?: unknown
  headers?: Record<string, string>
  /** For all of it, in milliseconds. */
  timeoutMs: number
  /** The most that an answer may have; 16 MiB without it. */
  maxBytes?: number
}

export interface WorkerAnswer {
  status: number
  headers: IncomingHttpHeaders
  text: string
}

const maxAnswerBytes = 16 * 1024 ** 2

/**
 * Asks a host something with the gateway's credentials.
 * @throws WorkerUnreachableError where no whole answer came.
 */
export async function askWorker (link: WorkerLink, question: WorkerQuestion): Promise<WorkerAnswer> {
  try {
    return await ask(link, question, false)
  } catch (error) {
    // Closed by the host just when it was used again. What may be asked twice is asked twice: it changes nothing, or has a key.
    const isRepeatable = question.method === 'GET' || question.headers?.['idempotency-key'] !== undefined
    if (!isRepeatable || !(error instanceof WorkerUnreachableError) || (error.cause as { isStale?: boolean }).isStale !== true) throw error
    return await ask(link, question, true)
  }
}

function ask (link: WorkerLink, { method, target, json, headers, timeoutMs, maxBytes = maxAnswerBytes }: WorkerQuestion, isAlone: boolean): Promise<WorkerAnswer> {
  const body = json === undefined ? undefined : Buffer.from(JSON.stringify(json))
  const { id } = link.access.worker
  return new Promise((resolve, reject) => {
    let wasSent = false
    const upstream = (link.isEncrypted ? httpsRequest : httpRequest)({
      hostname: link.hostname,
      port: link.port,
      agent: isAlone ? false : link.agent,
      ...(isAlone && link.access.ca ? { ca: link.access.ca } : {}),
      method,
      path: link.basePath + target,
      headers: {
        host: link.authority,
        authorization: `Bearer ${link.access.token}`,
        accept: 'application/json',
        ...(body ? { 'content-type': 'application/json', 'content-length': body.length } : {}),
        ...headers,
      },
      signal: AbortSignal.timeout(timeoutMs),
    })
    beginWhenConnected(upstream, link.isEncrypted, () => {
      wasSent = true
      upstream.end(body)
    })
    upstream.on('response', answer => { read(answer, id, maxBytes).then(resolve, reject) })
    upstream.on('error', (error: NodeJS.ErrnoException) => {
      const isStale = upstream.reusedSocket && error.code === 'ECONNRESET'
      reject(new WorkerUnreachableError(id, Object.assign(error, { isStale }), wasSent))
    })
  })
}

async function read (answer: IncomingMessage, workerId: string, maxBytes: number): Promise<WorkerAnswer> {
  const chunks: Buffer[] = []
  let bytes = 0
  try {
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      bytes += chunk.length
      if (bytes > maxBytes) throw new Error(`an answer of more than ${maxBytes} bytes`)
      chunks.push(chunk)
    }
  } catch (error) {
    throw new WorkerUnreachableError(workerId, error as Error, true)
  }
  return { status: answer.statusCode ?? 502, headers: answer.headers, text: Buffer.concat(chunks).toString('utf8') }
}
