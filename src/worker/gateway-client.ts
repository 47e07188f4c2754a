import { credentials, Metadata, makeClientConstructor, setLogVerbosity, logVerbosity, status, type Client, type ChannelOptions, type ServiceError } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { BerthError } from '../errors.ts'
import { readSecretFile } from '../lib/secret-file.ts'
import type { AddressLease, AddressSource } from '../services/network/address-source.ts'

export interface GatewayClientOptions {
  /** HOST:PORT */
  target: string
  /** As which worker the gateway knows this host. */
  workerId: string
  /** Holds the token; read anew for each call, so that it can be replaced. */
  tokenFile: string
  /** PEM of the authorities that may have signed the gateway's certificate; absent: plain text. */
  caFile?: string
  callTimeoutMs?: number
}

interface WorkerStub extends Client {
  allocateIp: Unary<{ sandboxId: string, workerId: string }, { ip: string, gateway: string, prefixLen: number }>
  releaseIp: Unary<{ sandboxId: string }, object>
}

type Unary<Request, Response> = (request: Request, metadata: Metadata, options: { deadline: number }, done: (error: ServiceError | null, response?: Response) => void) => unknown

const protoPath = fileURLToPath(new URL('../../proto/worker.proto', import.meta.url))
const usualCallTimeoutMs = 5000
const tokenBytes = { minBytes: 1, maxBytes: 4096 }
const channelOptions: ChannelOptions = {
  // A gateway that is back is found soon.
  'grpc.initial_reconnect_backoff_ms': 500,
  'grpc.max_reconnect_backoff_ms': 10_000,
  // The proxy of an environment is for what lies outside.
  'grpc.enable_http_proxy': 0,
  'grpc.service_config_disable_resolution': 1,
  // Connections end with their client.
  'grpc.use_local_subchannel_pool': 1,
}

/** This host's end of its gateway: `worker.WorkerService`, see proto/worker.proto. */
export class GatewayClient implements AddressSource {
  readonly #options: GatewayClientOptions
  readonly #certificates: Buffer | undefined
  #stub: WorkerStub | undefined
  #isClosed = false

  private constructor (options: GatewayClientOptions, certificates: Buffer | undefined) {
    this.#options = options
    this.#certificates = certificates
  }

  /**
   * Reads the files; the gateway itself need not be there yet.
   *
   * @throws BerthError invalid_argument `invalid_config` when a file cannot be used.
   */
  static async open (options: GatewayClientOptions): Promise<GatewayClient> {
    await readToken(options.tokenFile).catch((error: unknown) => { throw invalidConfig('BERTH_GATEWAY_TOKEN_FILE', error) })
    const certificates = options.caFile === undefined
      ? undefined
      : await readCertificates(options.caFile).catch((error: unknown) => { throw invalidConfig('BERTH_GATEWAY_CA_FILE', error) })
    // What fails is told by the calls; the log is JSON.
    setLogVerbosity(logVerbosity.NONE)
    return new GatewayClient(options, certificates)
  }

  async allocate (leaseId: string): Promise<AddressLease> {
    const { workerId } = this.#options
    const { ip, gateway, prefixLen } = await this.#call<{ ip: string, gateway: string, prefixLen: number }>(
      (stub, metadata, options, done) => stub.allocateIp({ sandboxId: leaseId, workerId }, metadata, options, done))
    return { ipv4: ip, gateway4: gateway, prefixLength: prefixLen }
  }

  async release (leaseId: string): Promise<void> {
    try {
      await this.#call<object>((stub, metadata, options, done) => stub.releaseIp({ sandboxId: leaseId }, metadata, options, done))
    } catch (error) {
      if (codeOf((error as BerthError).cause) !== status.NOT_FOUND) throw error
    }
  }

  close (): void {
    this.#isClosed = true
    this.#stub?.close()
  }

  async #call<T> (start: (stub: WorkerStub, metadata: Metadata, options: { deadline: number }, done: (error: ServiceError | null, response?: T) => void) => void): Promise<T> {
    const metadata = new Metadata()
    try {
      metadata.set('authorization', `Bearer ${await readToken(this.#options.tokenFile)}`)
    } catch (cause) {
      throw unavailable('this host has no token for its gateway: see BERTH_GATEWAY_TOKEN_FILE and the log of the host', cause)
    }
    if (this.#isClosed) throw unavailable('the daemon is ending; try again when it is back')
    const stub = this.#stub ?? this.#connect()
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    start(stub, metadata, { deadline: Date.now() + (this.#options.callTimeoutMs ?? usualCallTimeoutMs) }, (error, response) => error ? reject(error) : resolve(response as T))
    return await promise.catch((error: unknown) => {
      // A connection over which nothing comes back any more would be believed in for a quarter of an hour.
      if (codeOf(error) === status.DEADLINE_EXCEEDED && this.#stub === stub) {
        this.#stub = undefined
        stub.close()
      }
      throw refusal(error)
    })
  }

  #connect (): WorkerStub {
    const definition = loadSync(protoPath, { defaults: true })['worker.WorkerService']
    const Stub = makeClientConstructor(definition as never, 'WorkerService')
    const channel = this.#certificates ? credentials.createSsl(this.#certificates) : credentials.createInsecure()
    this.#stub = new Stub(this.#options.target, channel, channelOptions) as unknown as WorkerStub
    return this.#stub
  }
}

/** @throws Error that says what is wrong, and holds nothing of the token. */
async function readToken (path: string): Promise<string> {
  const token = (await readSecretFile(path, tokenBytes)).toString('utf8').trim()
  if (!/^[\x21-\x7e]+$/.test(token)) throw new Error('it holds no token: one line of letters, digits and signs')
  return token
}

async function readCertificates (path: string): Promise<Buffer> {
  const pem = await readFile(path)
  try {
    // The first of them; gRPC itself takes anything.
    void new X509Certificate(pem)
  } catch (cause) {
    throw new Error('it holds no certificate in PEM', { cause })
  }
  return pem
}

function codeOf (error: unknown): status | undefined {
  return (error as Partial<ServiceError> | undefined)?.code
}

function refusal (cause: unknown): BerthError {
  const code = codeOf(cause)
  if (code === status.RESOURCE_EXHAUSTED) {
    return new BerthError('exhausted', 'addresses_exhausted', 'the gateway has no address left for a sandbox; stop or delete a sandbox on any of its hosts, then try again', { cause })
  }
  if (code === status.UNAUTHENTICATED || code === status.PERMISSION_DENIED) {
    return unavailable('the gateway that gives sandboxes their addresses refuses this host: see its token in BERTH_GATEWAY_TOKEN_FILE', cause)
  }
  if (code === status.UNAVAILABLE || code === status.DEADLINE_EXCEEDED) {
    return unavailable('the gateway that gives sandboxes their addresses does not answer; try again when it is back, and see BERTH_GATEWAY and the log of the host', cause)
  }
  return unavailable(`the gateway gives this host no address (${code === undefined ? 'no reason' : status[code]}); see its log and that of the host`, cause)
}

function unavailable (message: string, cause?: unknown): BerthError {
  return new BerthError('unavailable', 'addresses_unavailable', message, { cause })
}

function invalidConfig (variable: string, error: unknown): BerthError {
  const problem = (error as NodeJS.ErrnoException).code ? `it cannot be read (${(error as NodeJS.ErrnoException).code})` : (error as Error).message
  return new BerthError('invalid_argument', 'invalid_config', `${variable}: ${problem}`, { cause: error })
}
