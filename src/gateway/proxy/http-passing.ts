/** Heads, bodies and interim answers on their way between a client and a host. */
import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http'
import { headerPairs } from './proxy-headers.ts'

const connectTimeoutMs = 5000

export function hasBody ({ headers }: IncomingMessage): boolean {
  return 'content-length' in headers ? headers['content-length'] !== '0' : 'transfer-encoding' in headers
}

/** Only connecting, with what TLS needs, has a limit of time. */
export function beginWhenConnected (upstream: ClientRequest, isEncrypted: boolean, begin: () => void): void {
  upstream.once('socket', socket => {
    if (upstream.reusedSocket) return begin()
    const timer = setTimeout(() => upstream.destroy(Object.assign(new Error('connecting took too long'), { code: 'ETIMEDOUT' })), connectTimeoutMs)
    const ready = isEncrypted ? 'secureConnect' : 'connect'
    socket.once(ready, begin)
    for (const event of [ready, 'close']) socket.once(event, () => clearTimeout(timer))
  })
}

export function sendBody (request: IncomingMessage, upstream: ClientRequest): void {
  // The host may answer from the head alone.
  upstream.flushHeaders()
  request.pipe(upstream, { end: false })
  request.once('end', () => {
    if (request.rawTrailers.length > 0) upstream.addTrailers([...headerPairs(request.rawTrailers)])
    upstream.end()
  })
}

export function passInformation (response: ServerResponse, statusCode: number, rawHeaders: string[]): void {
  if (response.headersSent || !response.writable) return
  if (statusCode === 100) return response.writeContinue()
  if (statusCode === 102) return response.writeProcessing()
  const links = statusCode === 103 ? [...headerPairs(rawHeaders)].flatMap(([name, value]) => name.toLowerCase() === 'link' ? value : []) : []
  if (links.length === 0) return
  try {
    response.writeEarlyHints({ link: links })
  } catch {
    // A hint that Node takes for malformed can be done without.
  }
}

/** Ends when the answer is out; rejects when either side breaks it off. */
export function sendAnswer (answer: IncomingMessage, response: ServerResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const onBroken = () => { if (!answer.complete) reject(new Error('the host broke off its answer')) }
    for (const event of ['error', 'close']) answer.on(event, onBroken)
    response.once('error', reject)
    response.once('finish', resolve)
    response.once('close', () => response.writableFinished ? resolve() : reject(new Error('the client went away')))
    answer.pipe(response, { end: false })
    answer.once('end', () => {
      if (answer.rawTrailers.length > 0) response.addTrailers([...headerPairs(answer.rawTrailers)])
      response.end()
    })
  })
}
