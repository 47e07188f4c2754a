import type { Logger } from 'pino'
import { BerthError } from '../errors.ts'
import { randomId } from '../lib/id.ts'
import type { FleetTaskTable } from '../services/fleet-queue/fleet-queue-types.ts'
import type { FleetAddress, FleetAddresses } from './fleet-addresses.ts'
import { heartbeatMs, notFound, type WorkerOwner, type WorkerRegistry } from './worker-registry.ts'
import type { FleetTokens } from './fleet-tokens.ts'
import type { FleetPrincipal, WorkerRecord } from './worker-record.ts'
import { readCount, readId, readRegistration, readRoom, readStatus, type HeartbeatRequest, type RegisterRequest } from './worker-requests.ts'

export interface WorkerMethodsOptions {
  workers: WorkerRegistry
  addresses: FleetAddresses
  tasks: Pick<FleetTaskTable, 'get'>
  tokens: Pick<FleetTokens, 'isGood'>
  logger: Logger
}

/** What a gateway does for workers, call by call (proto/worker.proto); knows no gRPC. */
export class WorkerMethods {
  readonly #options: WorkerMethodsOptions

  constructor (options: WorkerMethodsOptions) {
    this.#options = options
  }

  async registerWorker (request: RegisterRequest, principal: FleetPrincipal) {
    const { workers, logger } = this.#options
    const { hostId, facts } = readRegistration(request)
    checkPool(principal, facts.pool)
    // A worker that does not say who it is cannot be known again: what it was before is forgotten in time.
    const id = hostId === '' ? randomId('wrk') : hostId
    // Nobody takes over a worker of pools that are not theirs.
    if (principal.pools) checkPool(principal, await workers.findPool(id) ?? facts.pool)
    await this.#asOwner(principal, owner => workers.register(id, facts, owner),
      () => denied('worker_of_other_token', `worker ${id} came by another token: use that one, revoke it, or have an admin forget the worker (DELETE /v1/workers/${id})`))
    logger.info({ workerId: id, pool: facts.pool, hostname: facts.hostname, version: facts.version, hasApi: facts.apiUrl !== '' }, 'a worker has registered')
    return { workerId: id, heartbeatIntervalMs: heartbeatMs }
  }

  async heartbeat ({ workerId, free, sandboxes, tasks }: HeartbeatRequest, principal: FleetPrincipal) {
    const news = { ...free === null ? {} : { free: readRoom(free, 'free') }, sandboxes: readCount(sandboxes, 'sandboxes'), tasks: readCount(tasks, 'tasks') }
    readId(workerId, 'worker_id')
    // Whose it is, the heartbeat itself looks at.
    if (principal.pools) await this.#checkOwn(workerId, principal)
    const answer = await this.#options.workers.heartbeat(workerId, news, principal.scope === 'admin' ? '*' : principal.id)
    if (!answer) throw notFound(workerId)
    return { wish: answer.wish, wishNumber: answer.number }
  }

  async updateStatus ({ workerId, status }: { workerId: string, status: string }, principal: FleetPrincipal) {
    const wanted = readStatus(status)
    await this.#checkOwn(workerId, principal)
    await this.#options.workers.setStatus(workerId, wanted)
    this.#options.logger.info({ workerId, status }, 'a worker says how it is')
    return {}
  }

  async deregister ({ workerId }: { workerId: string }, principal: FleetPrincipal) {
    // Who is not there has left.
    if (await this.#options.workers.findPool(readId(workerId, 'worker_id')) === undefined) return {}
    await this.#checkOwn(workerId, principal)
    await this.#options.workers.deregister(workerId)
    this.#options.logger.info({ workerId }, 'a worker has left')
    return {}
  }

  async getWorker ({ workerId }: { workerId: string }, principal: FleetPrincipal) {
    const worker = await this.#options.workers.get(readId(workerId, 'worker_id'))
    if (principal.pools && !principal.pools.includes(worker.pool)) throw notFound(workerId)
    return toWire(worker)
  }

  async listWorkers (_request: object, { pools }: FleetPrincipal) {
    return { workers: (await this.#options.workers.list(pools ? { pools } : {})).map(toWire) }
  }

  /** The queue in Redis is what counts: it was told before, with the fence. Here it is looked at and written down. */
  async setTaskStarted ({ taskId, workerId, sandboxId }: { taskId: string, workerId: string, sandboxId: string }, principal: FleetPrincipal) {
    await this.#checkTask(taskId, principal)
    this.#options.logger.debug({ taskId, workerId: shorten(workerId), sandboxId: shorten(sandboxId), by: principal.id }, 'a task has started')
    return {}
  }

  async setTaskResult ({ taskId, workerId, exitCode, status }: { taskId: string, workerId: string, exitCode: number, status: string }, principal: FleetPrincipal) {
    await this.#checkTask(taskId, principal)
    this.#options.logger.info({ taskId, workerId: shorten(workerId), exitCode, status: shorten(status), by: principal.id }, 'a task has ended')
    return {}
  }

  async allocateIp ({ sandboxId, workerId }: { sandboxId: string, workerId: string }, principal: FleetPrincipal): Promise<FleetAddress> {
    const { addresses, workers } = this.#options
    readId(sandboxId, 'sandbox_id')
    // One that is not there (yet) shares what its token has.
    const isOwn = workerId !== '' && await workers.findOwner(readId(workerId, 'worker_id')) === principal.id
    let lent: FleetAddress | undefined
    await this.#asOwner(principal, async owner => {
      const answer = await addresses.allocate(sandboxId, workerId, { ...owner, countedFor: isOwn ? workerId : principal.id })
      if (typeof answer === 'string') return answer
      lent = answer
      return undefined
    }, () => denied('address_of_other_token', 'the address of this sandbox was lent by another token; use that one, or another sandbox_id'))
    return lent!
  }

  async releaseIp ({ sandboxId }: { sandboxId: string }, principal: FleetPrincipal) {
    await this.#asOwner(principal, owner => this.#options.addresses.release(readId(sandboxId, 'sandbox_id'), owner),
      () => denied('address_of_other_token', 'the address of this sandbox was lent by another token, which alone may give it back'))
    return {}
  }

  /** A token speaks for the workers alone that came by it, and that are of its pools. */
  async #checkOwn (workerId: string, principal: FleetPrincipal): Promise<void> {
    readId(workerId, 'worker_id')
    if (principal.scope === 'admin') return
    const { workers } = this.#options
    const [pool, owner] = await Promise.all([workers.findPool(workerId), workers.findOwner(workerId)])
    if (pool === undefined) throw notFound(workerId)
    checkPool(principal, pool)
    if (owner !== undefined && owner !== principal.id) throw notFound(workerId)
  }

  /**
   * Does what only the token may that something came by, or another one once that is no longer good. Admins may in anybody's place.
   * `act` answers the token that has it, where that is another.
   */
  async #asOwner (principal: FleetPrincipal, act: (owner: WorkerOwner) => Promise<string | undefined>, refusal: () => BerthError): Promise<void> {
    const tokenId = principal.id
    const other = await act(principal.scope === 'admin' ? { tokenId, instead: '*' } : { tokenId })
    if (other === undefined) return
    if (await this.#options.tokens.isGood(other) || await act({ tokenId, instead: other }) !== undefined) throw refusal()
  }

  async #checkTask (taskId: string, { pools }: FleetPrincipal): Promise<void> {
    const task = await this.#options.tasks.get(readId(taskId, 'task_id'))
    if (!task || (pools && !pools.includes(task.spec.pool))) throw new BerthError('not_found', 'task_not_found', 'there is no task with this id')
  }
}

function checkPool ({ pools }: FleetPrincipal, pool: string): void {
  if (!pools || pools.includes(pool)) return
  throw denied('pool_not_allowed', `this token is not for pool ${pool}; use one that is`)
}

function denied (code: string, message: string): BerthError {
  return new BerthError('permission_denied', code, message)
}

/** What is only written down, by whoever says it. */
function shorten (text: string): string {
  return text.slice(0, 128)
}

function toWire (worker: WorkerRecord) {
  const { id, status, pool, hostname, version, capacity, free, labels, apiUrl, sandboxes, tasks, lastSeenAtMs, registeredAtMs } = worker
  return {
    id,
    status,
    poolName: pool,
    hostname,
    cpu: capacity.cpuMillis,
    memory: capacity.memoryBytes,
    lastSeenAt: Math.floor(lastSeenAtMs / 1000),
    registeredAt: Math.floor(registeredAtMs / 1000),
    version,
    labels,
    free: { cpu: free.cpuMillis, memory: free.memoryBytes },
    apiUrl,
    sandboxes,
    tasks,
  }
}
