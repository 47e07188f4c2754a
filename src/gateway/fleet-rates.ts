/** How much one token may ask for, and how often one address may be wrong about a token, over all gateways of a fleet. */
import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'

export interface FleetRatesOptions {
  redis: RedisConnection
  /** Requests per second and token; 0 is no limit. */
  perSecond: number
}

type Limiter = ReturnType<FastifyInstance['createRateLimit']>

const failureWindowMs = 60_000
/** A person who mistypes, or a client that was not told of a new token, stays below it. */
const failuresPerWindow = 60
const maxRemembered = 10_000

/**
 * Counts in Redis, a window of a second for each token. Where Redis does not answer, requests pass: what they ask for needs Redis
 * anyway, and the admin token must work then of all times.
 */
export class FleetRates {
  readonly #options: FleetRatesOptions
  /** Addresses that were wrong too often, and until when, by performance.now(). */
  readonly #shutOut = new Map<string, number>()
  /** Ids of tokens that asked too often, likewise. */
  readonly #limited = new Map<string, number>()
  #requests: Limiter | undefined
  #failures: Limiter | undefined

  constructor (options: FleetRatesOptions) {
    this.#options = options
  }

  /** Before routes are registered. */
  addTo (app: FastifyInstance): void {
    const { redis, perSecond } = this.#options
    void app.register(rateLimit, { global: false, redis: redis.client, nameSpace: `${redis.prefix}:{berth}:rate:`, skipOnError: true })
    app.addHook('onReady', async () => {
      if (perSecond > 0) this.#requests = app.createRateLimit({ max: perSecond, timeWindow: 1000, keyGenerator: request => `token:${request.fleetPrincipal?.id}` })
      this.#failures = app.createRateLimit({ max: failuresPerWindow, timeWindow: failureWindowMs, keyGenerator: request => `failures:${request.ip}` })
    })
  }

  /**
   * Counts a request of somebody known, and does not wait until Redis has: that would make each call longer. So a few more than allowed
   * get through, those that are under way when the limit is reached.
   * @throws BerthError exhausted `rate_limited`.
   */
  count (request: FastifyRequest): void {
    const id = request.fleetPrincipal?.id ?? ''
    const ttl = (this.#limited.get(id) ?? 0) - performance.now()
    if (ttl > 0) throw limited(`this token may ask ${this.#options.perSecond} times a second; ask less often, or put more into one request`, ttl)
    void this.#ask(this.#requests, request).then(outcome => { if (outcome?.isExceeded) remember(this.#limited, id, outcome.ttl) })
  }

  /**
   * Counts a request without a good token. Those with one are let in from the same address all the same: many may be behind it.
   * @throws BerthError exhausted `rate_limited`.
   */
  async countFailure (request: FastifyRequest): Promise<void> {
    const ttl = (this.#shutOut.get(request.ip) ?? 0) - performance.now()
    if (ttl > 0) throw tooManyFailures(ttl)
    const outcome = await this.#ask(this.#failures, request)
    if (!outcome?.isExceeded) return
    remember(this.#shutOut, request.ip, outcome.ttl)
    throw tooManyFailures(outcome.ttl)
  }

  async #ask (limiter: Limiter | undefined, request: FastifyRequest) {
    // Not even for as long as a call may take.
    if (limiter === undefined || !this.#options.redis.isReady) return undefined
    // Never fails: see skipOnError.
    const outcome = await limiter(request)
    return outcome.isAllowed ? undefined : outcome
  }
}

function remember (until: Map<string, number>, key: string, ttlMs: number): void {
  if (until.size >= maxRemembered) until.clear()
  until.set(key, performance.now() + ttlMs)
}

function tooManyFailures (ttlMs: number): BerthError {
  return limited('too many requests without a good token came from this address; wait, then come with a good one', ttlMs)
}

function limited (message: string, ttlMs: number): BerthError {
  return new BerthError('exhausted', 'rate_limited', message, { details: { retryAfterMs: Math.max(0, Math.ceil(ttlMs)) } })
}
