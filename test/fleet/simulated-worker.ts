/** A worker of a fleet that has no sandboxes: its tasks pass their time. All that it says to its gateway and its queue is what a host says. */
import type { Logger } from 'pino'
import { openFleetQueue } from '../../src/services/fleet-queue/fleet-queue.ts'
import type { FleetQueue } from '../../src/services/fleet-queue/fleet-queue-types.ts'
import type { RedisConnection } from '../../src/services/redis/redis-types.ts'
import type { Claim } from '../../src/services/tasks/task-queue.ts'
import { GatewayClient } from '../../src/worker/gateway-client.ts'
import { Membership } from '../../src/worker/membership.ts'

export interface SimulatedWorkerOptions {
  hostId: string
  pool: string
  /** So many tasks at once; each requests what `taskRequests` says. */
  slots: number
  /** A task takes up to so long, by chance; milliseconds. */
  taskMs: number
  leaseMs: number
  /** HOST:PORT of the gateway, and its token; absent: it belongs to none. */
  gateway?: { target: string, tokenFile: string } | undefined
  /** May be that of many workers. Each listens for news on a connection of its own. */
  redis: RedisConnection
  figures: WorkerFigures
  logger: Logger
}

/** What workers of a process have seen. */
export class WorkerFigures {
  /** Each delivery that was settled: task, fence, milliseconds from when it was due until it was claimed, by the time of the queue. */
  readonly deliveries: Array<[taskId: string, fence: number, waitMs: number]> = []
  /** How long calls took that claimed something, those that found nothing, and heartbeats; milliseconds. */
  readonly claims: number[] = []
  readonly emptyClaims: number[] = []
  readonly heartbeats: number[] = []
  /** Calls of the queue that failed. */
  failures = 0
  missedHeartbeats = 0
}

export const taskRequests = { cpuMillis: 100, memoryBytes: 64 * 1024 ** 2 }

/** As of hosts (task-puller.ts). */
const maxBatch = 16
const lookEveryMs = 5000
const failurePauseMs = 500

export class SimulatedWorker {
  readonly #options: SimulatedWorkerOptions
  readonly #fleet: FleetQueue
  readonly #held = new Map<string, Claim>()
  #client: GatewayClient | undefined
  #membership: Membership | undefined
  #stopWatching: (() => void) | undefined
  #renewer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #isClosed = false
  #isInDoubt = false
  #hasNews = false
  #wakeUp: (() => void) | undefined

  constructor (options: SimulatedWorkerOptions) {
    this.#options = options
    const { redis, pool, figures } = options
    this.#fleet = openFleetQueue({ redis, fairLabel: 'tenant', labelLimits: [], pools: [pool], onError: () => { figures.failures++ } })
  }

  get isMember (): boolean {
    return this.#options.gateway === undefined || this.#membership?.state.isConnected === true
  }

  async start (): Promise<void> {
    if (this.#options.gateway !== undefined) await this.#join(this.#options.gateway)
    const { leaseMs, figures } = this.#options
    this.#stopWatching = this.#fleet.queue.watch(({ kind }) => { if (kind === 'available') this.#wake() })
    this.#renewer = setInterval(() => {
      if (this.#held.size > 0) this.#fleet.queue.renew([...this.#held.values()], leaseMs).catch(() => { figures.failures++ })
    }, leaseMs / 3)
    this.#running = this.#run()
  }

  async close (): Promise<void> {
    this.#isClosed = true
    clearInterval(this.#renewer)
    this.#stopWatching?.()
    this.#wake()
    await this.#running
    await this.#membership?.close()
    this.#client?.close()
    await this.#fleet.close()
  }

  async #join ({ target, tokenFile }: { target: string, tokenFile: string }): Promise<void> {
    const { hostId, pool, slots, figures, logger } = this.#options
    const client = await GatewayClient.open({ target, workerId: hostId, tokenFile })
    this.#client = client
    const capacity = roomOf(slots)
    this.#membership = new Membership({
      client: {
        target,
        register: client.register.bind(client),
        updateStatus: client.updateStatus.bind(client),
        deregister: client.deregister.bind(client),
        heartbeat: async (...call) => {
          const startedMs = performance.now()
          try {
            return await client.heartbeat(...call)
          } catch (error) {
            if (!this.#isClosed) figures.missedHeartbeats++
            throw error
          } finally {
            figures.heartbeats.push(performance.now() - startedMs)
          }
        },
      },
      hostId,
      facts: async () => ({
        hostname: hostId, pool, capacity, free: roomOf(slots - this.#held.size), version: 'simulated', labels: {}, apiUrl: '', apiCa: '', sandboxes: this.#held.size, tasks: this.#held.size,
      }),
      mintApiToken: () => undefined,
      status: () => 'available',
      onWish: () => {},
      logger,
    })
    this.#membership.start()
  }

  async #run (): Promise<void> {
    while (!this.#isClosed) {
      this.#hasNews = false
      let pauseMs = lookEveryMs * (0.5 + Math.random())
      try {
        while (!this.#isClosed && await this.#claimSome());
      } catch {
        this.#options.figures.failures++
        this.#isInDoubt = true
        pauseMs = failurePauseMs * (0.5 + Math.random())
      }
      await this.#rest(pauseMs)
    }
  }

  /** Whether there may be more. */
  async #claimSome (): Promise<boolean> {
    const { hostId, pool, slots, leaseMs, figures } = this.#options
    const { queue } = this.#fleet
    if (this.#isInDoubt) for (const claim of await queue.held(hostId, leaseMs)) this.#take(claim)
    this.#isInDoubt = false
    const free = slots - this.#held.size
    if (free <= 0) return false
    const startedMs = performance.now()
    const claims = await queue.claim({ owner: hostId, pools: [pool], limit: Math.min(maxBatch, free), leaseMs, room: roomOf(free), capacity: roomOf(slots) })
    figures[claims.length > 0 ? 'claims' : 'emptyClaims'].push(performance.now() - startedMs)
    for (const claim of claims) this.#take(claim)
    return claims.length > 0
  }

  #take (claim: Claim): void {
    if (this.#held.has(claim.taskId)) return
    this.#held.set(claim.taskId, claim)
    void this.#deliver(claim)
  }

  async #deliver (claim: Claim): Promise<void> {
    const { taskMs, figures } = this.#options
    const { queue } = this.#fleet
    try {
      await this.#untilAnswered(() => queue.start(claim, { sandboxId: 'sbx_00000000000000000000', startedAt: new Date().toISOString(), timings: [], logCursor: '0:0' }))
      await pass(Math.random() * taskMs)
      const end = { reason: 'exited' as const, exitCode: 0, at: new Date().toISOString() }
      await this.#untilAnswered(() => queue.settle(claim, { status: 'complete', end, isRetryable: false }))
      const { availableAt, attempts } = claim.task
      figures.deliveries.push([claim.taskId, claim.fence, Date.parse(attempts.at(-1)!.claimedAt) - Date.parse(availableAt)])
    } catch {
      figures.failures++
    }
    this.#held.delete(claim.taskId)
    this.#wake()
  }

  /** @throws BerthError of any other kind than that nobody answered. */
  async #untilAnswered (call: () => Promise<unknown>): Promise<void> {
    while (!this.#isClosed) {
      try {
        await call()
        return
      } catch (error) {
        if ((error as { kind?: string }).kind !== 'unavailable') throw error
        this.#options.figures.failures++
        await pass(failurePauseMs * Math.random())
      }
    }
  }

  async #rest (pauseMs: number): Promise<void> {
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, pauseMs)
      this.#wakeUp = () => {
        clearTimeout(timer)
        resolve()
      }
      if (this.#hasNews || this.#isClosed) this.#wakeUp()
    })
    this.#wakeUp = undefined
  }

  #wake (): void {
    this.#hasNews = true
    this.#wakeUp?.()
  }
}

function roomOf (slots: number): { cpuMillis: number, memoryBytes: number } {
  return { cpuMillis: slots * taskRequests.cpuMillis, memoryBytes: slots * taskRequests.memoryBytes }
}

function pass (ms: number): Promise<void> {
  return new Promise(resolve => { setTimeout(resolve, ms) })
}
