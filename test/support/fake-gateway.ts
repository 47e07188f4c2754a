/** A gateway: all of WorkerService over real gRPC, with its memory in maps; and it misbehaves as a test asks it to. */
import { Server, ServerCredentials, status, type sendUnaryData, type ServerUnaryCall } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { fileURLToPath } from 'node:url'
import type { AddressLease } from '../../src/services/network/address-source.ts'

interface Refusal { code: status, details: string }

/** A request as it came; a server that is old has dropped what it does not know. */
export type FakeRequest = Record<string, any>

export interface FakeWorker {
  id: string
  status: string
  registration: FakeRequest
  heartbeats: number
}

interface Definition { responseSerialize: (value: object) => Buffer }

export const gatewayToken = 'secret-of-the-fleet'

const protoPath = fileURLToPath(new URL('../../proto/worker.proto', import.meta.url))
const oldProtoPath = fileURLToPath(new URL('./old-worker.proto', import.meta.url))
/** A field of a kind that there is not. */
const garbage = Buffer.from([0x0f])

/** The words by which `calls` tells of the calls, and what stands behind them. */
const lines: Readonly<Record<string, (request: FakeRequest) => string>> = {
  registerWorker: ({ hostname }) => `register ${hostname}`,
  heartbeat: ({ workerId }) => `heartbeat ${workerId}`,
  updateStatus: ({ workerId, status }) => `status ${workerId} ${status}`,
  deregister: ({ workerId }) => `deregister ${workerId}`,
  getWorker: ({ workerId }) => `get ${workerId}`,
  listWorkers: () => 'list',
  setTaskStarted: ({ taskId }) => `started ${taskId}`,
  setTaskResult: ({ taskId }) => `ended ${taskId}`,
  allocateIp: ({ sandboxId, workerId }) => `allocate ${sandboxId} ${workerId}`,
  releaseIp: ({ sandboxId }) => `release ${sandboxId}`,
}

export class FakeGateway {
  /** What is lent at the moment. */
  readonly leases = new Map<string, string>()
  readonly workers = new Map<string, FakeWorker>()
  /** All calls that came with the right token, a line each: `allocate <lease> <worker>`, `register <hostname>`, … */
  readonly calls: string[] = []
  /** Their requests, likewise. */
  readonly requests: FakeRequest[] = []
  /** The most calls that were under way at once. */
  mostAtOnce = 0
  /** How many calls came, with whichever token. */
  knocks = 0
  token = gatewayToken
  /** Given in the place of the next addresses. */
  answers: Array<Partial<AddressLease>> = []
  /** Of every call. */
  refusal: Refusal | undefined
  /** By the name of the call, as `heartbeat`. */
  refusals: Record<string, Refusal> = {}
  /** Fields in the place of those that an answer should have, by the name of the call. */
  nonsense: Record<string, object> = {}
  /** Its answers are no messages. */
  isGarbled = false
  /** It takes calls and never answers. */
  isSilent = false
  slowMs = 0
  heartbeatIntervalMs = 0
  wish = { wish: '', wishNumber: 0 as number | string }
  readonly #network: string
  readonly #isOld: boolean
  #server: Server | undefined
  #credentials = ServerCredentials.createInsecure()
  #port = 0
  #last = 9
  #lastWorker = 0
  #underWay = 0

  /** `network`: the first three numbers of a /16's addresses it gives out. `isOld`: it knows no field that is Berth's own. */
  constructor (network = '10.64.3', { isOld = false } = {}) {
    this.#network = network
    this.#isOld = isOld
  }

  /** Answers the port that it listens at. */
  async listen (place = '127.0.0.1:0', serverCredentials = ServerCredentials.createInsecure()): Promise<number> {
    const server = new Server()
    const definition = loadSync(this.#isOld ? oldProtoPath : protoPath, { defaults: true, longs: Number })['worker.WorkerService'] as unknown as Record<string, Definition>
    for (const [name, method] of Object.entries(definition)) {
      definition[name] = { ...method, responseSerialize: value => this.isGarbled ? garbage : method.responseSerialize(value) }
    }
    const works = this.#works()
    const handler = (name: string) => (call: ServerUnaryCall<FakeRequest, object>, done: sendUnaryData<object>) => this.#answer(name, works[name]!, call, done)
    server.addService(definition as never, Object.fromEntries(Object.keys(lines).map(name => [name, handler(name)])))
    this.#server = server
    this.#credentials = serverCredentials
    this.#port = await new Promise((resolve, reject) => server.bindAsync(place, serverCredentials, (error, port) => error ? reject(error) : resolve(port)))
    return this.#port
  }

  close (): void {
    this.#server?.forceShutdown()
  }

  /** Ends every connection and listens at the same port again. It remembers everything. */
  async restart (): Promise<void> {
    this.close()
    await this.listen(`127.0.0.1:${this.#port}`, this.#credentials)
  }

  /** Its memory of workers is gone. */
  forget (): void {
    this.workers.clear()
  }

  #answer (name: string, work: (request: FakeRequest) => object, call: ServerUnaryCall<FakeRequest, object>, done: sendUnaryData<object>): void {
    this.knocks++
    this.mostAtOnce = Math.max(this.mostAtOnce, ++this.#underWay)
    let isOver = false
    const finish = (act: () => void) => {
      if (!isOver) this.#underWay--
      isOver = true
      act()
    }
    call.on('cancelled', () => finish(() => {}))
    if (this.isSilent) return
    setTimeout(() => finish(() => this.#decide(name, work, call, done)), this.slowMs)
  }

  #decide (name: string, work: (request: FakeRequest) => object, { request, metadata }: ServerUnaryCall<FakeRequest, object>, done: sendUnaryData<object>): void {
    if (metadata.get('authorization')[0] !== `Bearer ${this.token}`) return done({ code: status.UNAUTHENTICATED, details: 'who are you?' })
    this.calls.push(lines[name]!(request))
    this.requests.push(request)
    const refusal = this.refusal ?? this.refusals[name]
    if (refusal) return done(refusal)
    try {
      done(null, { ...work(request), ...this.nonsense[name] })
    } catch {
      done({ code: status.NOT_FOUND, details: 'no such worker' })
    }
  }

  #works (): Readonly<Record<string, (request: FakeRequest) => object>> {
    return {
      registerWorker: request => this.#register(request),
      heartbeat: ({ workerId }) => {
        this.#worker(workerId).heartbeats++
        return this.wish
      },
      updateStatus: ({ workerId, status: told }) => {
        this.#worker(workerId).status = told
        return {}
      },
      deregister: ({ workerId }) => {
        this.workers.delete(workerId)
        return {}
      },
      getWorker: ({ workerId }) => describe(this.#worker(workerId)),
      listWorkers: () => ({ workers: [...this.workers.values()].map(describe) }),
      setTaskStarted: () => ({}),
      setTaskResult: () => ({}),
      allocateIp: ({ sandboxId }) => this.#allocate(sandboxId),
      releaseIp: ({ sandboxId }) => {
        this.leases.delete(sandboxId)
        return {}
      },
    }
  }

  /** A gateway that hears no id of a host gives each registration another. */
  #register (registration: FakeRequest): object {
    const id = registration.hostId ?? `worker-${++this.#lastWorker}`
    this.workers.set(id, { id, status: registration.status || 'available', registration, heartbeats: 0 })
    return { workerId: id, heartbeatIntervalMs: this.heartbeatIntervalMs }
  }

  #worker (id: string): FakeWorker {
    const worker = this.workers.get(id)
    if (!worker) throw new Error('no such worker')
    return worker
  }

  #allocate (sandboxId: string): object {
    const ipv4 = this.leases.get(sandboxId) ?? `${this.#network}.${++this.#last}`
    const { ipv4: ip, gateway4: gateway, prefixLength: prefixLen } = { ipv4, gateway4: '10.64.0.1', prefixLength: 16, ...this.answers.shift() }
    this.leases.set(sandboxId, ip)
    return { ip, gateway, prefixLen }
  }
}

function describe ({ id, status: workerStatus, registration: { poolName, hostname, cpu, memory, version, labels, free } }: FakeWorker): object {
  return { id, status: workerStatus, poolName, hostname, cpu, memory, version, labels, free, lastSeenAt: 1_772_357_400, registeredAt: 1_772_357_000 }
}
