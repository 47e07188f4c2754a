import { status } from '@grpc/grpc-js'
import { BerthError } from '../errors.ts'
import type { AddressLease, AddressSource } from '../services/network/address-source.ts'
import type { Room } from '../services/tasks/task-queue.ts'
import { codeOf, GatewayChannel, nonsense, type GatewayCallOptions, type GatewayChannelOptions } from './gateway-channel.ts'
import type { EndedReport, StartedReport } from './gateway-reports.ts'

export interface GatewayClientOptions extends GatewayChannelOptions {
  /** As which worker the gateway knows this host until it has registered: the host's id. */
  workerId: string
}

export type JoinStatus = 'available' | 'draining'

/** What a host says of itself to its gateway. */
export interface WorkerFacts {
  hostname: string
  pool: string
  capacity: Room
  free: Room
  /** Of Berth. */
  version: string
  labels: Readonly<Record<string, string>>
  /** Where the gateway reaches the host's API; empty: nowhere. */
  apiUrl: string
  /** PEM of the authorities of its certificate; empty: the usual ones. */
  apiCa: string
  sandboxes: number
  tasks: number
}

export interface Registration {
  hostId: string
  status: JoinStatus
  facts: WorkerFacts
  /** By which the gateway may use the host's API. */
  apiToken?: string
}

export interface Registered {
  workerId: string
  /** What the gateway says, unbounded; absent: it says nothing. */
  heartbeatMs?: number
}

/** What somebody asked of this host by way of the gateway. */
export interface Wish {
  wish: 'drain' | 'undrain'
  /** Another number is another wish. */
  number: number
}

/** A worker as a gateway tells of it. What an old one does not know is absent. */
export interface WorkerInfo {
  id: string
  status: string
  pool: string
  hostname: string
  version: string
  capacity: Room
  lastSeenAt: string
  registeredAt: string
  labels: Record<string, string>
  free?: Room
}

interface WireRoom { cpu: number, memory: number }
interface WireWorker extends WireRoom {
  id: string
  status: string
  poolName: string
  hostname: string
  lastSeenAt: number
  registeredAt: number
  version: string
  labels: Record<string, string>
  free: WireRoom | null
}

/** Any gateway's own kind of id; nothing that would spoil a log or a file. */
const workerIdPattern = /^[\x21-\x7e]{1,256}$/
/** The last instant that a Date holds, in seconds. */
const maxSeconds = 8.64e12

/** This host's end of its gateway: the ten calls of `worker.WorkerService`, see proto/worker.proto. */
export class GatewayClient implements AddressSource {
  readonly #channel: GatewayChannel
  #workerId: string

  private constructor (channel: GatewayChannel, workerId: string) {
    this.#channel = channel
    this.#workerId = workerId
  }

  /**
   * Reads the files; the gateway itself need not be there yet.
   *
   * @throws BerthError invalid_argument `invalid_config` when a file cannot be used.
   */
  static async open ({ workerId, ...options }: GatewayClientOptions): Promise<GatewayClient> {
    return new GatewayClient(await GatewayChannel.open(options), workerId)
  }

  /** HOST:PORT of the gateway. */
  get target (): string {
    return this.#channel.target
  }

  /** Joins the fleet. From then on addresses and reports go by the id that the gateway gave. @throws BerthError unavailable `gateway_…` */
  async register ({ hostId, status: joinStatus, facts, apiToken = '' }: Registration, options?: GatewayCallOptions): Promise<Registered> {
    const { hostname, pool, capacity, free, version, labels, apiUrl, apiCa } = facts
    const { workerId, heartbeatIntervalMs } = await this.#channel.call<{ workerId: string, heartbeatIntervalMs: number }>('registerWorker', {
      hostname, poolName: pool, ...toWire(capacity), version, hostId, apiUrl, apiToken, labels, free: toWire(free), apiCa, status: joinStatus,
    }, options)
    if (!workerIdPattern.test(workerId)) throw nonsense('no id for a worker')
    this.#workerId = workerId
    return { workerId, ...(heartbeatIntervalMs > 0 ? { heartbeatMs: heartbeatIntervalMs } : {}) }
  }

  /** @throws BerthError unavailable `gateway_…`; with NOT_FOUND the gateway does not know the worker. */
  async heartbeat (workerId: string, { free, sandboxes, tasks }: Pick<WorkerFacts, 'free' | 'sandboxes' | 'tasks'>, options?: GatewayCallOptions): Promise<Wish | undefined> {
    const { wish, wishNumber } = await this.#channel.call<{ wish: string, wishNumber: number }>('heartbeat', { workerId, free: toWire(free), sandboxes, tasks }, options)
    // A gateway of a later version may have other wishes.
    if (wish !== 'drain' && wish !== 'undrain') return undefined
    if (!Number.isSafeInteger(wishNumber)) throw nonsense('a number that no wish has')
    return { wish, number: wishNumber }
  }

  /** @throws BerthError unavailable `gateway_…`, likewise. */
  async updateStatus (workerId: string, joinStatus: JoinStatus, options?: GatewayCallOptions): Promise<void> {
    await this.#channel.call('updateStatus', { workerId, status: joinStatus }, options)
  }

  /** Leaves the fleet; a worker that the gateway does not know has left. @throws BerthError unavailable `gateway_…` */
  async deregister (workerId: string, options?: GatewayCallOptions): Promise<void> {
    await withoutNotFound(this.#channel.call('deregister', { workerId }, options))
  }

  /** Undefined where there is no such worker. @throws BerthError unavailable `gateway_…` */
  async getWorker (workerId: string, options?: GatewayCallOptions): Promise<WorkerInfo | undefined> {
    const worker = await withoutNotFound(this.#channel.call<WireWorker>('getWorker', { workerId }, options))
    return worker && fromWire(worker)
  }

  /** @throws BerthError unavailable `gateway_…` */
  async listWorkers (options?: GatewayCallOptions): Promise<WorkerInfo[]> {
    const { workers } = await this.#channel.call<{ workers: WireWorker[] }>('listWorkers', {}, options)
    return workers.map(fromWire)
  }

  /** @throws BerthError unavailable `gateway_…` */
  async setTaskStarted ({ taskId, fence, sandboxId = '' }: StartedReport, options?: GatewayCallOptions): Promise<void> {
    await this.#channel.call('setTaskStarted', { taskId, workerId: this.#workerId, fence, sandboxId }, options)
  }

  /** @throws BerthError unavailable `gateway_…` */
  async setTaskResult ({ taskId, fence, status: taskStatus, exitCode, error = '' }: EndedReport, options?: GatewayCallOptions): Promise<void> {
    await this.#channel.call('setTaskResult', { taskId, exitCode: exitCode ?? (taskStatus === 'complete' ? 0 : noExitCode), error, workerId: this.#workerId, fence, status: taskStatus }, options)
  }

  async allocate (leaseId: string): Promise<AddressLease> {
    const { ip, gateway, prefixLen } = await addressErrors(this.#channel.call<{ ip: string, gateway: string, prefixLen: number }>('allocateIp', { sandboxId: leaseId, workerId: this.#workerId }))
    return { ipv4: ip, gateway4: gateway, prefixLength: prefixLen }
  }

  async release (leaseId: string): Promise<void> {
    await addressErrors(withoutNotFound(this.#channel.call('releaseIp', { sandboxId: leaseId })))
  }

  close (): void {
    this.#channel.close()
  }
}

/** Of a task whose command never came to an end of its own. */
const noExitCode = -1

function toWire ({ cpuMillis, memoryBytes }: Room): WireRoom {
  return { cpu: Math.trunc(cpuMillis), memory: Math.trunc(memoryBytes) }
}

/** @throws BerthError for numbers that a double does not hold. */
function fromWire ({ id, status: workerStatus, poolName, hostname, cpu, memory, lastSeenAt, registeredAt, version, labels, free }: WireWorker): WorkerInfo {
  const room = (wire: WireRoom): Room => {
    if (!Number.isSafeInteger(wire.cpu) || !Number.isSafeInteger(wire.memory)) throw nonsense('a room that no host has')
    return { cpuMillis: wire.cpu, memoryBytes: wire.memory }
  }
  const time = (seconds: number) => {
    if (Math.abs(seconds) > maxSeconds) throw nonsense('a time that is none')
    return new Date(seconds * 1000).toISOString()
  }
  if (!workerIdPattern.test(id)) throw nonsense('no id for a worker')
  return {
    id,
    status: workerStatus,
    pool: poolName,
    hostname,
    version,
    capacity: room({ cpu, memory }),
    lastSeenAt: time(lastSeenAt),
    registeredAt: time(registeredAt),
    labels,
    ...(free && { free: room(free) }),
  }
}

/** Undefined for what the gateway does not know. */
async function withoutNotFound<T> (call: Promise<T>): Promise<T | undefined> {
  return await call.catch((error: unknown) => {
    if (codeOf(error) !== status.NOT_FOUND) throw error
    return undefined
  })
}

/** In the words of an AddressSource. */
async function addressErrors<T> (call: Promise<T>): Promise<T> {
  return await call.catch((error: BerthError) => {
    const { message, cause } = error
    if (codeOf(error) === status.RESOURCE_EXHAUSTED) {
      throw new BerthError('exhausted', 'addresses_exhausted', 'the gateway has no address left for a sandbox; stop or delete a sandbox on any of its hosts, then try again', { cause })
    }
    throw new BerthError('unavailable', 'addresses_unavailable', `the gateway gives sandboxes their addresses: ${message}`, { cause })
  })
}
