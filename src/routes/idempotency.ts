/** Idempotency-Key: a POST sent twice happens once, and the second answer is the first one again. */
import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'

/** A request that brings a key. Keys of different tokens are different keys. */
export interface IdempotentRequest {
  tokenId: string
  key: string
  method: string
  /** With its query. */
  path: string
  bodyHash: string
}

/** An answer that is kept to be given again; of its headers only those that belong to it. */
export interface KeptAnswer {
  status: number
  headers: Record<string, string>
  body: string
}

export interface IdempotencyKeys {
  /**
   * Claims a key, or says what its request was answered.
   * @throws BerthError conflict when the key is of another request, or its request is still under way.
   */
  begin: (request: IdempotentRequest) => KeyState | Promise<KeyState>
  complete: (request: IdempotentRequest, answer: KeptAnswer) => void | Promise<void>
  /** Forgets the claim: the request changed nothing. */
  abandon: (request: IdempotentRequest) => void | Promise<void>
}

export type KeyState = { state: 'new' } | { state: 'replay' } & KeptAnswer

declare module 'fastify' {
  interface FastifyRequest {
    /** The key that this request has claimed. */
    idempotent: IdempotentRequest | undefined
  }
  interface FastifyContextConfig {
    /**
     * Fields of the body that are no part of what is asked for, and of which nothing may be kept: not even a hash, which tells who
     * guesses that the guess is right. `outputs.secret` is a field of what `outputs` is, or of every item of that list.
     */
    secretFields?: readonly string[]
    /** The answer is a secret, of which nothing may be kept: a key is taken and not honoured. */
    answersSecret?: boolean
  }
}

const keptHeaders = ['content-type', 'location']

/**
 * Honours Idempotency-Key on every POST: first claims the key, at the end keeps a success and forgets a failure.
 * `ownerOf` says whose key it is: the id of the token, where that of the request's principal does not.
 */
export function addIdempotency (app: FastifyInstance, keys: IdempotencyKeys, ownerOf: (request: FastifyRequest) => string = ownerByPrincipal): void {
  app.decorateRequest('idempotent', undefined)
  app.addHook('preHandler', async (request, reply) => {
    if (request.method !== 'POST' || request.is404) return
    const claim = claimOf(request, ownerOf)
    if (claim === undefined) return
    const known = await keys.begin(claim)
    if (known.state === 'replay') return replay(reply, known)
    request.idempotent = claim
  })
  app.addHook('onSend', async (request, reply, payload) => {
    const claim = request.idempotent
    if (claim === undefined) return
    request.idempotent = undefined
    const isKept = reply.statusCode < 300 && (typeof payload === 'string' || payload == null)
    if (isKept) await keys.complete(claim, { status: reply.statusCode, headers: headersToKeep(reply), body: payload ?? '' })
    else await keys.abandon(claim)
  })
}

function ownerByPrincipal ({ principal }: FastifyRequest): string {
  return principal?.id ?? 'root'
}

function claimOf (request: FastifyRequest, ownerOf: (request: FastifyRequest) => string): IdempotentRequest | undefined {
  const key = request.headers['idempotency-key']
  if (key === undefined || request.routeOptions.config.answersSecret) return undefined
  if (typeof key !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(key)) {
    throw new BerthError('invalid_argument', 'idempotency_key_invalid', 'Idempotency-Key must be 1 to 255 visible ASCII characters')
  }
  const bodyHash = createHash('sha256').update(JSON.stringify(withoutSecrets(request)) ?? '').digest('hex')
  return { tokenId: ownerOf(request), key, method: request.method, path: request.url, bodyHash }
}

function withoutSecrets ({ body, routeOptions }: FastifyRequest): unknown {
  return (routeOptions.config.secretFields ?? []).reduce((rest, field) => withoutField(rest, field.split('.')), body)
}

function withoutField (value: unknown, [name, ...inner]: string[]): unknown {
  if (Array.isArray(value)) return value.map(item => withoutField(item, [name!, ...inner]))
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name!)) return value
  const { [name!]: found, ...others } = value as Record<string, unknown>
  return inner.length === 0 ? others : { ...value, [name!]: withoutField(found, inner) }
}

function headersToKeep (reply: FastifyReply): Record<string, string> {
  return Object.fromEntries(keptHeaders.flatMap(name => {
    const value = reply.getHeader(name)
    return value === undefined ? [] : [[name, String(value)]]
  }))
}

function replay (reply: FastifyReply, response: KeptAnswer): FastifyReply {
  reply.code(response.status).headers(response.headers).header('idempotency-replayed', 'true')
  return response.body === '' ? reply.send() : reply.serializer(String).send(response.body)
}
