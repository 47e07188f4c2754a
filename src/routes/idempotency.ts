/** Idempotency-Key: a POST sent twice happens once, and the second answer is the first one again. */
import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'

/** An answer that is kept to be given again. */
export interface KeptResponse {
  status: number
  /** Only what belongs to the answer itself: content-type, location. */
  headers: Record<string, string>
  body: string
}

/** What becomes of a key that a request brings. */
export type IdempotencyClaim =
  | { state: 'started' }
  | { state: 'completed', response: KeptResponse }
  /** Another request with this key and fingerprint is under way. */
  | { state: 'in_progress' }
  /** The key was used for a request with another fingerprint. */
  | { state: 'mismatch' }

export interface IdempotencyKeys {
  begin: (key: string, fingerprint: string) => IdempotencyClaim
  complete: (key: string, response: KeptResponse) => void
  /** Forgets the key: the request changed nothing. */
  abandon: (key: string) => void
}

declare module 'fastify' {
  interface FastifyRequest {
    /** The claimed key, with its owner before it: two tokens may use the same key. */
    idempotencyKey: string | undefined
  }
}

const keptHeaders = ['content-type', 'location']

/** Honours Idempotency-Key on every POST: first claims the key, at the end keeps a success and forgets a failure. */
export function addIdempotency (app: FastifyInstance, keys: IdempotencyKeys): void {
  app.decorateRequest('idempotencyKey', undefined)
  app.addHook('preHandler', async (request, reply) => {
    if (request.method !== 'POST' || request.is404) return
    const key = scopedKey(request)
    if (key === undefined) return
    const claim = keys.begin(key, fingerprint(request))
    if (claim.state === 'completed') return replay(reply, claim.response)
    if (claim.state === 'mismatch') throw new BerthError('conflict', 'idempotency_key_reused', 'this Idempotency-Key was used for another request; take a fresh one')
    if (claim.state === 'in_progress') throw new BerthError('conflict', 'idempotency_key_in_use', 'a request with this Idempotency-Key is still under way; try again when it has ended')
    request.idempotencyKey = key
  })
  app.addHook('onSend', async (request, reply, payload) => {
    const key = request.idempotencyKey
    if (key === undefined) return
    request.idempotencyKey = undefined
    if (reply.statusCode >= 300 || (typeof payload !== 'string' && payload !== null && payload !== undefined)) return keys.abandon(key)
    keys.complete(key, { status: reply.statusCode, headers: headersToKeep(reply), body: typeof payload === 'string' ? payload : '' })
  })
}

function scopedKey (request: FastifyRequest): string | undefined {
  const key = request.headers['idempotency-key']
  if (key === undefined) return undefined
  if (typeof key !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(key)) {
    throw new BerthError('invalid_argument', 'idempotency_key_invalid', 'Idempotency-Key must be 1 to 255 visible ASCII characters')
  }
  return `${request.principal?.id ?? 'root'}/${key}`
}

function fingerprint (request: FastifyRequest): string {
  return createHash('sha256').update(`${request.method} ${request.url}\n${JSON.stringify(request.body) ?? ''}`).digest('hex')
}

function headersToKeep (reply: FastifyReply): Record<string, string> {
  return Object.fromEntries(keptHeaders.flatMap(name => {
    const value = reply.getHeader(name)
    return value === undefined ? [] : [[name, String(value)]]
  }))
}

function replay (reply: FastifyReply, response: KeptResponse): FastifyReply {
  reply.code(response.status).headers(response.headers).header('idempotency-replayed', 'true')
  return response.body === '' ? reply.send() : reply.serializer(String).send(response.body)
}
