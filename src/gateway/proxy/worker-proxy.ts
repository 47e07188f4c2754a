import type { FastifyReply, FastifyRequest } from 'fastify'
import { BerthError } from '../../errors.ts'
import type { FleetPrincipal } from '../worker-record.ts'
import { admitToWorker, type FleetTokenVerifier } from './proxy-admission.ts'
import type { ProxyDoor } from './proxy-door.ts'
import { hostIdempotencyKey } from './proxy-headers.ts'
import type { ProxyPlace } from './proxy-path.ts'
import { checkPool, checkProxied } from './proxy-permissions.ts'
import { forwardToWorker, type WorkerExchange } from './worker-forwarder.ts'
import type { WorkerLink, WorkerLinks } from './worker-links.ts'

export interface WorkerProxyOptions {
  links: WorkerLinks
  tokens: FleetTokenVerifier
  door: ProxyDoor
  /** Aborted when the gateway ends: tunnels and followers end then. */
  closing: AbortSignal
  /** Aborted when its grace is over; without it nothing is cut off before its end. */
  forcing?: AbortSignal | undefined
}

export interface Passing {
  place: ProxyPlace
  /** The worker that it goes to; asked once it is known who asks. @throws BerthError. */
  find: () => Promise<string> | string
  /** Told how the host answered, before the client is. */
  onAnswer?: (status: number) => void
}

const never = new AbortController().signal
const idempotencyKey = /^[\x21-\x7e]{1,255}$/

/** Passes requests on to hosts: who asks is looked at here, what is asked is the host's. */
export class WorkerProxy {
  readonly #options: WorkerProxyOptions

  constructor (options: WorkerProxyOptions) {
    this.#options = options
  }

  /**
   * Answers a request with what a host answers; takes the reply over before its first byte.
   * @throws BerthError before anything was sent.
   */
  async pass (request: FastifyRequest, reply: FastifyReply, { place, find, onAnswer }: Passing): Promise<void> {
    const { door, tokens, links, closing, forcing = never } = this.#options
    const tunnel = door.pendingOf(request.raw)
    if (tunnel) refuseBody(request)
    const { principal, protocols } = await admitToWorker(request, place, tunnel !== undefined, tokens)
    if (principal) checkProxied(principal, { method: request.method, segments: place.segments, query: place.query, isUpgrade: tunnel !== undefined })
    const workerId = await findFor(principal, find)
    const exchange: WorkerExchange = { request: request.raw, response: reply.raw, tunnel, closing, forcing }
    for (let isSecond = false; ; isSecond = true) {
      const link = await openFor(principal, () => links.open(workerId))
      if (principal) checkPool(principal, link.access.worker.pool)
      try {
        await forwardToWorker({
          link,
          target: place.target,
          prefix: place.prefix,
          requestId: request.id,
          isVouchedFor: principal !== undefined,
          isPreview: isPreview(place),
          idempotencyKey: keyOf(request, principal),
          protocols,
          onAnswer: status => {
            onAnswer?.(status)
            takeOver(reply)
          },
        }, exchange)
        break
      } catch (error) {
        if (!(error instanceof BerthError) || error.code !== 'worker_unreachable') throw error
        // It may have another address, or another token, than it had a moment ago.
        links.doubt(workerId)
        if (isSecond || !await this.#hasNews(workerId, link, request)) throw error
      }
    }
    takeOver(reply)
  }

  /** @throws BerthError not_found `worker_not_found`. */
  async checkWorker (id: string): Promise<void> {
    try {
      await this.#options.links.open(id)
    } catch (error) {
      // That there is one can be said of one without an address too.
      if (!(error instanceof BerthError) || error.code !== 'worker_unreachable') throw error
    }
  }

  /** Whether the same request, which changes nothing, may go better by what is known of the worker by now. */
  async #hasNews (workerId: string, { access }: WorkerLink, { method, headers, raw }: FastifyRequest): Promise<boolean> {
    if (method !== 'GET' && method !== 'HEAD') return false
    if ('content-length' in headers || 'transfer-encoding' in headers || raw.socket.destroyed) return false
    const known = await this.#options.links.open(workerId).catch(() => undefined)
    return known !== undefined && (known.access.url !== access.url || known.access.token !== access.token)
  }
}

/** Who comes with a ticket alone learns nothing of what there is. */
async function findFor (principal: FleetPrincipal | undefined, find: Passing['find']): Promise<string> {
  return await openFor(principal, async () => await find())
}

async function openFor<T> (principal: FleetPrincipal | undefined, open: () => Promise<T>): Promise<T> {
  try {
    return await open()
  } catch (error) {
    if (principal || !(error instanceof BerthError) || error.kind !== 'not_found') throw error
    throw new BerthError('unauthenticated', 'ticket_invalid', 'this leads nowhere without a token: send Authorization: Bearer <token>, or ask for another ticket')
  }
}

function refuseBody ({ headers }: FastifyRequest): void {
  if (!('transfer-encoding' in headers) && (headers['content-length'] ?? '0') === '0') return
  throw new BerthError('invalid_argument', 'upgrade_with_body', 'a request that asks for an upgrade has no body here')
}

/** One that is malformed is left to the host to refuse. */
function keyOf ({ headers }: FastifyRequest, principal: FleetPrincipal | undefined): string | undefined {
  const given = headers['idempotency-key']
  if (typeof given !== 'string') return undefined
  return principal && idempotencyKey.test(given) ? hostIdempotencyKey(principal.id, given) : given
}

/** A program in a sandbox answers below `/v1/sandboxes/:id/ports/:port/`. */
function isPreview ({ segments }: ProxyPlace): boolean {
  return segments.length > 5 && segments[1] === 'sandboxes' && segments[3] === 'ports'
}

/** The answer is the host's: it is measured no more than a stream, and gets none of the gateway's headers. */
function takeOver (reply: FastifyReply): void {
  if (reply.sent) return
  reply.header('x-accel-buffering', 'no')
  reply.hijack()
}
