import { credentials, makeClientConstructor, Metadata, setLogVerbosity, logVerbosity, status, type ChannelCredentials, type ChannelOptions, type Client, type ClientUnaryCall, type ServiceClientConstructor, type ServiceError } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { BerthError } from '../errors.ts'
import { readSecretFile } from '../lib/secret-file.ts'

export interface GatewayChannelOptions {
  /** HOST:PORT */
  target: string
  /** Holds the token; read anew for each call, so that it can be replaced. */
  tokenFile: string
  /** PEM of the authorities that may have signed the gateway's certificate; absent: plain text. */
  caFile?: string
  /** PEM of this host's own certificate and its key, for a gateway that asks for one. Both or none; they need caFile. */
  certFile?: string
  keyFile?: string
  /** How long a call may take; 5 s when absent. */
  callTimeoutMs?: number
}

export interface GatewayCallOptions {
  timeoutMs?: number
  /** Gives the call up. */
  signal?: AbortSignal
}

type Method = (request: object, metadata: Metadata, options: { deadline: number }, done: (error: ServiceError | null, response?: object) => void) => ClientUnaryCall
type WorkerStub = Client & Readonly<Record<string, Method>>

const protoPath = fileURLToPath(new URL('../../proto/worker.proto', import.meta.url))
const usualCallTimeoutMs = 5000
const tokenBytes = { minBytes: 1, maxBytes: 4096 }
const keyBytes = { minBytes: 1, maxBytes: 65_536 }
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

/** The connection to a gateway: credentials, deadlines, errors. What is said over it is the GatewayClient's. */
export class GatewayChannel {
  readonly #options: GatewayChannelOptions
  readonly #credentials: ChannelCredentials
  #stub: WorkerStub | undefined
  #isClosed = false

  private constructor (options: GatewayChannelOptions, channelCredentials: ChannelCredentials) {
    this.#options = options
    this.#credentials = channelCredentials
  }

  /**
   * Reads the files; the gateway itself need not be there yet.
   *
   * @throws BerthError invalid_argument `invalid_config` when a file cannot be used.
   */
  static async open (options: GatewayChannelOptions): Promise<GatewayChannel> {
    await readToken(options.tokenFile).catch((error: unknown) => { throw invalidConfig('BERTH_GATEWAY_TOKEN_FILE', error) })
    const channelCredentials = await readCredentials(options)
    // What fails is told by the calls; the log is JSON.
    setLogVerbosity(logVerbosity.NONE)
    return new GatewayChannel(options, channelCredentials)
  }

  get target (): string {
    return this.#options.target
  }

  /**
   * One call of WorkerService, by its name in the stub (`registerWorker`). Fields that are absent in the answer have their defaults.
   *
   * @throws BerthError unavailable, with a code that begins with `gateway_`; `codeOf` says the gRPC code of it.
   */
  async call<Response extends object> (method: string, request: object, options: GatewayCallOptions = {}): Promise<Response> {
    const metadata = new Metadata()
    try {
      metadata.set('authorization', `Bearer ${await readToken(this.#options.tokenFile)}`)
    } catch (cause) {
      throw new BerthError('unavailable', 'gateway_token_unreadable', 'this host has no token for its gateway: see BERTH_GATEWAY_TOKEN_FILE and the log of the host', { cause })
    }
    if (this.#isClosed || options.signal?.aborted) throw new BerthError('unavailable', 'gateway_call_given_up', 'the daemon is ending; try again when it is back')
    const stub = this.#stub ?? this.#connect()
    const { promise, resolve, reject } = Promise.withResolvers<Response>()
    const deadline = Date.now() + (options.timeoutMs ?? this.#options.callTimeoutMs ?? usualCallTimeoutMs)
    const call = stub[method]!(request, metadata, { deadline }, (error, response) => error ? reject(error) : resolve(response as Response))
    const giveUp = () => call.cancel()
    options.signal?.addEventListener('abort', giveUp, { once: true })
    try {
      return await promise
    } catch (error) {
      // A connection over which nothing comes back any more would be believed in for a quarter of an hour.
      if (codeOf(error) === status.DEADLINE_EXCEEDED && this.#stub === stub) {
        this.#stub = undefined
        stub.close()
      }
      throw refusal(error)
    } finally {
      options.signal?.removeEventListener('abort', giveUp)
    }
  }

  close (): void {
    this.#isClosed = true
    this.#stub?.close()
  }

  #connect (): WorkerStub {
    Stub ??= makeStub()
    this.#stub = new Stub(this.#options.target, this.#credentials, channelOptions) as unknown as WorkerStub
    return this.#stub
  }
}

/** Made once: reading the protocol takes longer than a call. */
let Stub: ServiceClientConstructor | undefined

function makeStub (): ServiceClientConstructor {
  // Numbers that a double does not hold are found by those who read them.
  const definition = loadSync(protoPath, { defaults: true, longs: Number })['worker.WorkerService']
  return makeClientConstructor(definition as never, 'WorkerService')
}

/** The gRPC code of what a call has failed with; undefined where it did not come to a call. */
export function codeOf (error: unknown): status | undefined {
  const { code, cause } = error as { code?: unknown, cause?: unknown }
  if (typeof code === 'number') return code
  return error instanceof BerthError && cause instanceof Error ? codeOf(cause) : undefined
}

/** An answer that a gateway of this protocol does not give. */
export function nonsense (what: string): BerthError {
  return new BerthError('unavailable', 'gateway_nonsense', `the gateway answers what makes no sense (${what}); see BERTH_GATEWAY: is it a gateway?`)
}

/** @throws Error that says what is wrong, and holds nothing of the token. */
async function readToken (path: string): Promise<string> {
  const token = (await readSecretFile(path, tokenBytes)).toString('utf8').trim()
  if (!/^[\x21-\x7e]+$/.test(token)) throw new Error('it holds no token: one line of letters, digits and signs')
  return token
}

async function readCredentials ({ caFile, certFile, keyFile }: GatewayChannelOptions): Promise<ChannelCredentials> {
  if (certFile === undefined && keyFile !== undefined) throw invalidConfig('BERTH_GATEWAY_KEY_FILE', new Error('it needs the certificate in BERTH_GATEWAY_CERT_FILE too'))
  if (certFile !== undefined && keyFile === undefined) throw invalidConfig('BERTH_GATEWAY_CERT_FILE', new Error('it needs the key in BERTH_GATEWAY_KEY_FILE too'))
  if (certFile !== undefined && caFile === undefined) throw invalidConfig('BERTH_GATEWAY_CERT_FILE', new Error('it needs the authorities of the gateway in BERTH_GATEWAY_CA_FILE too'))
  if (caFile === undefined) return credentials.createInsecure()
  const { pem: authorities } = await readCertificates(caFile).catch((error: unknown) => { throw invalidConfig('BERTH_GATEWAY_CA_FILE', error) })
  if (certFile === undefined || keyFile === undefined) return credentials.createSsl(authorities)
  const own = await readCertificates(certFile).catch((error: unknown) => { throw invalidConfig('BERTH_GATEWAY_CERT_FILE', error) })
  const key = await readKey(keyFile, own.first).catch((error: unknown) => { throw invalidConfig('BERTH_GATEWAY_KEY_FILE', error) })
  return credentials.createSsl(authorities, key, own.pem)
}

async function readCertificates (path: string): Promise<{ pem: Buffer, first: X509Certificate }> {
  const pem = await readFile(path)
  try {
    // gRPC itself takes anything.
    return { pem, first: new X509Certificate(pem) }
  } catch (cause) {
    throw new Error('it holds no certificate in PEM', { cause })
  }
}

async function readKey (path: string, certificate: X509Certificate): Promise<Buffer> {
  const pem = await readSecretFile(path, keyBytes)
  const key = (() => {
    try {
      return createPrivateKey(pem)
    } catch {
      // The cause could hold something of the key.
      throw new Error('it holds no private key in PEM without a passphrase')
    }
  })()
  if (!certificate.checkPrivateKey(key)) throw new Error('it is not the key of the certificate in BERTH_GATEWAY_CERT_FILE')
  return pem
}

function refusal (cause: unknown): BerthError {
  const code = codeOf(cause)
  if (code === status.UNAUTHENTICATED || code === status.PERMISSION_DENIED) {
    const where = code === status.UNAUTHENTICATED ? 'its token in BERTH_GATEWAY_TOKEN_FILE' : 'its token in BERTH_GATEWAY_TOKEN_FILE and its pool in BERTH_POOL'
    return new BerthError('unavailable', 'gateway_refused', `the gateway refuses this host: see ${where}`, { cause })
  }
  if (code === status.UNAVAILABLE || code === status.DEADLINE_EXCEEDED) {
    return new BerthError('unavailable', 'gateway_away', 'the gateway does not answer; see BERTH_GATEWAY and the log of the host', { cause })
  }
  return new BerthError('unavailable', 'gateway_failed', `the gateway does not do what it is asked (${code === undefined ? 'no reason' : status[code]}); see its log and that of the host`, { cause })
}

function invalidConfig (variable: string, error: unknown): BerthError {
  const problem = (error as NodeJS.ErrnoException).code ? `it cannot be read (${(error as NodeJS.ErrnoException).code})` : (error as Error).message
  return new BerthError('invalid_argument', 'invalid_config', `${variable}: ${problem}`, { cause: error })
}
