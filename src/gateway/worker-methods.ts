import type { Logger } from 'pino'
import { BerthError } from '../errors.ts'
import { randomId } from '../lib/id.ts'
import type { FleetTaskTable } from '../services/fleet-queue/fleet-queue-types.ts'
import type { FleetAddress, FleetAddresses } from './fleet-addresses.ts'
import { heartbeatMs, notFound, type WorkerRegistry } from './worker-registry.ts'
import type { FleetPrincipal, WorkerRecord } from './worker-record.ts'
import { readCount, readId, readRegistration, readRoom, readStatus, type HeartbeatRequest, type RegisterRequest } from './worker-requests.ts'

export interface WorkerMethodsOptions {
  workers: WorkerRegistry
  addresses: FleetAddresses
  tasks: Pick<FleetTaskTable, 'get'>
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
    await workers.register(id, facts)
    logger.info({ workerId: id, pool: facts.pool, hostname: facts.hostname, version: facts.version, hasApi: facts.apiUrl !== '' }, 'a worker has registered')
    return { workerId: id, heartbeatIntervalMs: heartbeatMs }
  }

  async heartbeat ({ workerId, free, sandboxes, tasks }: HeartbeatRequest, principal: FleetPrincipal) {
    const news = { ...free === null ? {} : { free: readRoom(free, 'free') }, sandboxes: readCount(sandboxes, 'sandboxes'), tasks: readCount(tasks, 'tasks') }
    await this.#checkOwn(workerId, principal)
    const answer = await this.#options.workers.heartbeat(workerId, news)
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
    this.#options.logger.debug({ taskId, workerId, sandboxId }, 'a task has started')
    return {}
  }

  async setTaskResult ({ taskId, workerId, exitCode, status }: { taskId: string, workerId: string, exitCode: number, status: string }, principal: FleetPrincipal) {
    await this.#checkTask(taskId, principal)
    this.#options.logger.info({ taskId, workerId, exitCode, status }, 'a task has ended')
    return {}
  }

  async allocateIp ({ sandboxId, workerId }: { sandboxId: string, workerId: string }): Promise<FleetAddress> {
    return await this.#options.addresses.allocate(readId(sandboxId, 'sandbox_id'), workerId === '' ? '' : readId(workerId, 'worker_id'))
  }

  async releaseIp ({ sandboxId }: { sandboxId: string }) {
    await this.#options.addresses.release(readId(sandboxId, 'sandbox_id'))
    return {}
  }

  /** A token of some pools speaks for their workers alone. */
  async #checkOwn (workerId: string, principal: FleetPrincipal): Promise<void> {
    readId(workerId, 'worker_id')
    if (!principal.pools) return
    const pool = await this.#options.workers.findPool(workerId)
    if (pool === undefined) throw notFound(workerId)
    checkPool(principal, pool)
  }

  async #checkTask (taskId: string, { pools }: FleetPrincipal): Promise<void> {
    const task = await this.#options.tasks.get(readId(taskId, 'task_id'))
    if (!task || (pools && !pools.includes(task.spec.pool))) throw new BerthError('not_found', 'task_not_found', 'there is no task with this id')
  }
}

function checkPool ({ pools }: FleetPrincipal, pool: string): void {
  if (!pools || pools.includes(pool)) return
  throw new BerthError('permission_denied', 'pool_not_allowed', `this token is not for pool ${pool}; use one that is`)
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
