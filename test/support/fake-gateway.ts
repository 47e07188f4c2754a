/** A gateway that lends addresses over gRPC, and does what a test asks it to. */
import { Server, ServerCredentials, status, type sendUnaryData, type ServerUnaryCall } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { fileURLToPath } from 'node:url'
import type { AddressLease } from '../../src/services/network/address-source.ts'

interface AllocateRequest { sandboxId: string, workerId: string }
interface Refusal { code: status, details: string }

export const gatewayToken = 'secret-of-the-fleet'

const protoPath = fileURLToPath(new URL('../../proto/worker.proto', import.meta.url))

export class FakeGateway {
  /** What is lent at the moment. */
  readonly leases = new Map<string, string>()
  /** All calls that came with the right token: `allocate <lease> <worker>`, `release <lease>`. */
  readonly calls: string[] = []
  token = gatewayToken
  /** Given in the place of what would be, the next first. */
  answers: Array<Partial<AddressLease>> = []
  refusal: Refusal | undefined
  /** It takes calls and never answers. */
  isSilent = false
  readonly #network: string
  #server: Server | undefined
  #last = 9

  /** `network`: the first three numbers of a /16's addresses it gives out. */
  constructor (network = '10.64.3') {
    this.#network = network
  }

  /** Answers the port that it listens at. */
  async listen (place = '127.0.0.1:0', serverCredentials = ServerCredentials.createInsecure()): Promise<number> {
    const server = new Server()
    const definition = loadSync(protoPath, { defaults: true })['worker.WorkerService']
    server.addService(definition as never, {
      allocateIp: (call: ServerUnaryCall<AllocateRequest, object>, done: sendUnaryData<object>) => this.#answer(call, done, `allocate ${call.request.sandboxId} ${call.request.workerId}`, () => this.#allocate(call.request)),
      releaseIp: (call: ServerUnaryCall<AllocateRequest, object>, done: sendUnaryData<object>) => this.#answer(call, done, `release ${call.request.sandboxId}`, () => this.#release(call.request)),
    })
    this.#server = server
    return await new Promise((resolve, reject) => server.bindAsync(place, serverCredentials, (error, port) => error ? reject(error) : resolve(port)))
  }

  close (): void {
    this.#server?.forceShutdown()
  }

  #answer (call: ServerUnaryCall<AllocateRequest, object>, done: sendUnaryData<object>, line: string, work: () => object): void {
    if (this.isSilent) return
    if (call.metadata.get('authorization')[0] !== `Bearer ${this.token}`) return done({ code: status.UNAUTHENTICATED, details: 'who are you?' })
    this.calls.push(line)
    if (this.refusal) return done(this.refusal)
    done(null, work())
  }

  #allocate ({ sandboxId }: AllocateRequest): object {
    const ipv4 = this.leases.get(sandboxId) ?? `${this.#network}.${++this.#last}`
    const { ipv4: ip, gateway4: gateway, prefixLength: prefixLen } = { ipv4, gateway4: '10.64.0.1', prefixLength: 16, ...this.answers.shift() }
    this.leases.set(sandboxId, ip)
    return { ip, gateway, prefixLen }
  }

  #release ({ sandboxId }: AllocateRequest): object {
    this.leases.delete(sandboxId)
    return {}
  }
}
