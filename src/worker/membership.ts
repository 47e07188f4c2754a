import { status } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { BerthError } from '../errors.ts'
import { ChangeSignal } from '../lib/change-signal.ts'
import { withDeadline } from '../lib/deadline.ts'
import type { HostGateway } from '../schemas/host.ts'
import { codeOf } from './gateway-channel.ts'
import type { GatewayClient, JoinStatus, Wish, WorkerFacts } from './gateway-client.ts'

export interface MembershipOptions {
  client: Pick<GatewayClient, 'target' | 'register' | 'heartbeat' | 'updateStatus' | 'deregister'>
  /** What this host is at the moment; asked before each registration and heartbeat. */
  facts: () => Promise<WorkerFacts>
  hostId: string
  /** A token by which the gateway may use this host's API; those before it end. Asked once for each registration that succeeds. */
  mintApiToken: () => string | undefined
  /** What is told at first; from then on `setStatus` decides. */
  status: () => JoinStatus
  /** Carries out what somebody asked of this host by way of the gateway. One that fails is asked again with the next heartbeat. */
  onWish: (wish: Wish['wish'], number: number) => void | Promise<void>
  /** The number of the wish that was carried out last, by whichever daemon. */
  lastWish?: number | undefined
  /** Between heartbeats, where the gateway does not say; 10 s when absent. */
  heartbeatMs?: number
  /** The longest pause after the first failure, and the longest of all; 1 s and 30 s when absent. */
  backoff?: { firstMs: number, maxMs: number }
  logger: Logger
}

const usualHeartbeatMs = 10_000
const usualBackoff = { firstMs: 1000, maxMs: 30_000 }
/** What a gateway may ask for; more often would load it, more seldom would have it take the host for lost. */
const heartbeatBounds = { least: 1000, most: 60_000 }
/** Facts come from the kernel and the disk of this host, where something may hang. */
const factsTimeoutMs = 5000
const deregisterTimeoutMs = 5000
/** The same problem is logged no more often. */
const logEveryMs = 60_000

/**
 * Keeps this host a worker of its gateway, as long as both exist. One loop, one call at a time:
 *
 *   register ─▶ heartbeat when it is due ─▶ tell the status where it is another ─▶ pause, heartbeat …
 *      ▲  └── fails: again after a pause                                │ NOT_FOUND: forgotten
 *      └────────────────────────────────────────────────────────────────┘
 *
 * Nothing else depends on it: a gateway that is away, or answers what makes no sense, is told by `state` and the log alone.
 */
export class Membership {
  readonly #options: MembershipOptions
  readonly #pauses = new ChangeSignal()
  readonly #ending = new AbortController()
  readonly #givingUp = new AbortController()
  #loop: Promise<void> | undefined
  #workerId: string | undefined
  #apiToken: string | undefined
  #wanted: JoinStatus = 'available'
  /** What the gateway takes this host for. */
  #told: JoinStatus | undefined
  #heartbeatMs: number
  #nextHeartbeatAt = 0
  #lastHeartbeatAt: string | undefined
  #lastWish: number | undefined
  /** The heartbeat that is due has not arrived. */
  #hasMissed = false
  #failures = 0
  #isForgotten = false
  #problem: string | undefined
  #loggedAt = -Infinity

  constructor (options: MembershipOptions) {
    this.#options = options
    this.#heartbeatMs = options.heartbeatMs ?? usualHeartbeatMs
    this.#lastWish = options.lastWish
  }

  /** As `GET /v1/host` shows it. */
  get state (): HostGateway {
    return {
      target: this.#options.client.target,
      isConnected: this.#workerId !== undefined && this.#problem === undefined,
      ...(this.#workerId !== undefined && { workerId: this.#workerId }),
      ...(this.#lastHeartbeatAt !== undefined && { lastHeartbeatAt: this.#lastHeartbeatAt }),
      ...(this.#problem !== undefined && { problem: this.#problem }),
    }
  }

  /** Begins to register. Never fails, and waits for nothing. */
  start (): void {
    if (this.#loop) return
    this.#wanted = this.#options.status()
    this.#loop = this.#run()
  }

  /** Is told to the gateway until it knows; the latest wins. */
  setStatus (joinStatus: JoinStatus): void {
    this.#wanted = joinStatus
    if (this.#told !== joinStatus) this.#pauses.notify()
  }

  /** Ends the loop, and has the gateway forget this host if it can be reached in time. */
  async deregister (timeoutMs = deregisterTimeoutMs): Promise<void> {
    try {
      await withDeadline(timeoutMs, 'leaving the fleet', async signal => {
        signal.addEventListener('abort', () => this.#givingUp.abort(), { once: true })
        this.#ending.abort()
        await this.#loop
        if (this.#workerId !== undefined) await this.#options.client.deregister(this.#workerId, { timeoutMs, signal })
        this.#forget()
      })
    } catch (error) {
      this.#options.logger.warn({ err: error }, 'the gateway could not be told that this host leaves')
    }
  }

  /** Ends the loop, and a call under way. The gateway hears nothing of it. */
  async close (): Promise<void> {
    this.#ending.abort()
    this.#givingUp.abort()
    await this.#loop
  }

  async #run (): Promise<void> {
    while (!this.#ending.signal.aborted) {
      const pauseMs = await this.#step().catch((error: unknown) => this.#fail(error))
      await this.#pause(pauseMs)
    }
  }

  /** Answers how long nothing is to be done. */
  async #step (): Promise<number> {
    if (this.#workerId === undefined) await this.#register()
    if (!this.#isEnding && Date.now() >= this.#nextHeartbeatAt) await this.#beat()
    if (!this.#isEnding && this.#told !== this.#wanted) await this.#tell()
    if (this.#problem !== undefined) this.#options.logger.info({ target: this.#options.client.target, workerId: this.#workerId }, 'the gateway is back')
    this.#problem = undefined
    this.#failures = 0
    this.#loggedAt = -Infinity
    // What was asked for during the last call is told at once.
    return this.#told === this.#wanted ? this.#nextHeartbeatAt - Date.now() : 0
  }

  async #register (): Promise<void> {
    const { client, hostId, mintApiToken, logger } = this.#options
    const facts = await this.#facts()
    const wanted = this.#wanted
    this.#apiToken ??= mintApiToken()
    const { workerId, heartbeatMs } = await client.register({ hostId, status: wanted, facts, ...(this.#apiToken !== undefined && { apiToken: this.#apiToken }) }, this.#call)
    this.#workerId = workerId
    this.#hasMissed = false
    this.#apiToken = undefined
    // A gateway that knows no status here takes everybody for available.
    this.#told = wanted === 'available' ? wanted : undefined
    this.#heartbeatMs = heartbeatMs === undefined ? this.#options.heartbeatMs ?? usualHeartbeatMs : Math.min(heartbeatBounds.most, Math.max(heartbeatBounds.least, heartbeatMs))
    // Hosts that come together after an outage do not stay together.
    this.#nextHeartbeatAt = Date.now() + Math.random() * this.#heartbeatMs
    logger.info({ target: client.target, workerId, heartbeatMs: this.#heartbeatMs }, 'this host is a worker of its gateway')
  }

  async #tell (): Promise<void> {
    const wanted = this.#wanted
    await this.#options.client.updateStatus(this.#workerId!, wanted, this.#call)
    this.#told = wanted
  }

  async #beat (): Promise<void> {
    this.#hasMissed = true
    const facts = await this.#facts()
    const wish = await this.#options.client.heartbeat(this.#workerId!, facts, this.#call)
    this.#lastHeartbeatAt = new Date().toISOString()
    this.#hasMissed = false
    this.#isForgotten = false
    this.#nextHeartbeatAt = Date.now() + this.#heartbeatMs * (0.8 + 0.2 * Math.random())
    if (wish) this.#carryOut(wish)
  }

  /** Another number, not a greater one: a gateway that has lost its memory may count anew. */
  #carryOut ({ wish, number }: Wish): void {
    const { onWish, logger } = this.#options
    if (number === this.#lastWish) return
    const before = this.#lastWish
    this.#lastWish = number
    logger.info({ wish, number }, 'the gateway passes on a wish')
    void (async () => onWish(wish, number))().catch((error: unknown) => {
      logger.error({ wish, number, err: error }, 'a wish could not be carried out; it is tried again')
      if (this.#lastWish === number) this.#lastWish = before
    })
  }

  /** Answers how long to wait before the next try. */
  #fail (error: unknown): number {
    if (this.#isEnding) return 0
    const { firstMs, maxMs } = this.#options.backoff ?? usualBackoff
    const code = codeOf(error)
    if (code === status.NOT_FOUND) {
      // It answers, so it is back; but one that forgets at once what it is told is not to be asked all the time.
      this.#failures = this.#isForgotten ? this.#failures + 1 : 1
      this.#isForgotten = true
      this.#forget()
      // With the worker, what was wished of it is gone: whatever is wished from then on is meant.
      this.#lastWish = undefined
      this.#report('the gateway does not know this host; it registers again', error)
    } else {
      this.#failures++
      this.#report(error instanceof BerthError ? error.message : 'this host cannot say what it is; see its log', error)
    }
    const isRefused = code === status.UNAUTHENTICATED || code === status.PERMISSION_DENIED
    const pauseMs = isRefused ? maxMs * (0.5 + Math.random() / 2) : Math.random() * Math.min(maxMs, firstMs * 2 ** Math.min(30, this.#failures - 1))
    // A status that the gateway does not take is no reason to be taken for lost.
    const isAlive = this.#workerId !== undefined && !this.#hasMissed
    return isAlive ? Math.min(pauseMs, this.#nextHeartbeatAt - Date.now()) : pauseMs
  }

  #report (problem: string, error: unknown): void {
    const isKnown = this.#problem === problem
    this.#problem = problem
    if (isKnown && performance.now() - this.#loggedAt < logEveryMs) return
    this.#loggedAt = performance.now()
    this.#options.logger.warn({ target: this.#options.client.target, failures: this.#failures, err: error }, 'this host does not reach its gateway; it is tried again')
  }

  #forget (): void {
    this.#workerId = undefined
    this.#told = undefined
  }

  async #facts (): Promise<WorkerFacts> {
    return await withDeadline(factsTimeoutMs, 'looking at this host', () => this.#options.facts())
  }

  get #isEnding (): boolean {
    return this.#ending.signal.aborted
  }

  get #call () {
    return { signal: this.#givingUp.signal }
  }

  /** Until then, or until something is to be told, or the end. */
  async #pause (ms: number): Promise<void> {
    if (ms <= 0) return
    const timeout = new AbortController()
    const timer = setTimeout(() => timeout.abort(), ms)
    await this.#pauses.wait(AbortSignal.any([timeout.signal, this.#ending.signal]))
    clearTimeout(timer)
  }
}
