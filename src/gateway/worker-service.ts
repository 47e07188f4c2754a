/** `worker.WorkerService` (proto/worker.proto) as gRPC: who may call, what errors become, and an end that comes to an end. */
import { Server, ServerCredentials, setLogVerbosity, logVerbosity, status, type sendUnaryData, type ServerUnaryCall } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import { BerthError, toBerthError, type ErrorKind } from '../errors.ts'
import { findBearerToken } from '../routes/authentication.ts'
import type { ServerCertificates } from '../routes/http-server.ts'
import type { WorkerMethods } from './worker-methods.ts'
import type { FleetPrincipal } from './worker-record.ts'

export interface WorkerServiceOptions {
  calls: WorkerMethods
  tokens: { verify: (token: string) => Promise<FleetPrincipal | undefined> }
  logger: Logger
  /** Told of each call that was answered, with the name of its status. */
  onAnswered: (method: string, statusName: string, durationMs: number) => void
  certificates?: ServerCertificates | undefined
}

type Call = ServerUnaryCall<object, object>
type Method = (request: never, principal: FleetPrincipal) => Promise<object>

const protoPath = fileURLToPath(new URL('../../proto/worker.proto', import.meta.url))

const statusOfKind: Readonly<Record<ErrorKind, status>> = {
  invalid_argument: status.INVALID_ARGUMENT,
  unauthenticated: status.UNAUTHENTICATED,
  permission_denied: status.PERMISSION_DENIED,
  not_found: status.NOT_FOUND,
  conflict: status.FAILED_PRECONDITION,
  exhausted: status.RESOURCE_EXHAUSTED,
  unavailable: status.UNAVAILABLE,
  timed_out: status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  internal: status.INTERNAL,
}

const methods = [
  'registerWorker', 'heartbeat', 'updateStatus', 'deregister', 'getWorker', 'listWorkers', 'setTaskStarted', 'setTaskResult', 'allocateIp', 'releaseIp',
] as const satisfies ReadonlyArray<keyof WorkerMethods>

const serverOptions = {
  // The largest there is: labels and certificates of a registration.
  'grpc.max_receive_message_length': 1024 ** 2,
  // Of one connection, and a worker has one.
  'grpc.max_concurrent_streams': 256,
  // A worker that vanished without a word costs nothing for longer than this.
  'grpc.keepalive_time_ms': 60_000,
  'grpc.keepalive_timeout_ms': 20_000,
  // Of a connection without a call, whoever holds it: a worker calls every ten seconds.
  'grpc.max_connection_idle_ms': 120_000,
  'grpc.max_send_message_length': 64 * 1024 ** 2,
}

export class WorkerService {
  readonly #options: WorkerServiceOptions
  readonly #server: Server

  constructor (options: WorkerServiceOptions) {
    this.#options = options
    // What fails is told by the calls; the log is JSON.
    setLogVerbosity(logVerbosity.NONE)
    this.#server = new Server(serverOptions)
    const definition = loadSync(protoPath, { defaults: true, longs: Number })['worker.WorkerService']
    const handlers = Object.fromEntries(methods.map(name => [name, (call: Call, done: sendUnaryData<object>) => { void this.#answer(name, call, done) }]))
    this.#server.addService(definition as never, handlers)
  }

  /** Answers where it listens, HOST:PORT. @throws Error when it cannot. */
  async listen ({ host, port }: { host: string, port: number }): Promise<string> {
    const place = host.includes(':') ? `[${host}]` : host
    const bound = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(`${place}:${port}`, this.#credentials(), (error, actual) => error ? reject(error) : resolve(actual))
    })
    return `${place}:${bound}`
  }

  /** Lets calls under way come to their end, within the grace; then ends them. */
  async close (graceMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(() => {
      this.#server.forceShutdown()
      resolve()
    }, graceMs)
    this.#server.tryShutdown(() => resolve())
    await promise
    clearTimeout(timer)
  }

  #credentials (): ServerCredentials {
    const { certificates } = this.#options
    if (!certificates) return ServerCredentials.createInsecure()
    const { cert, key, clientCa } = certificates
    return ServerCredentials.createSsl(clientCa ?? null, [{ cert_chain: cert, private_key: key }], clientCa !== undefined)
  }

  async #answer (name: typeof methods[number], call: Call, done: sendUnaryData<object>): Promise<void> {
    const { calls, logger, onAnswered } = this.#options
    const beganMs = performance.now()
    let code = status.OK
    try {
      const principal = await this.#admit(call)
      const answer = await (calls[name] as Method).call(calls, call.request as never, principal)
      done(null, answer)
    } catch (error) {
      const known = toBerthError(error)
      code = statusOfKind[known.kind]
      if (known.kind === 'internal') logger.error({ err: known.cause ?? known, method: name }, 'a call of a worker failed')
      done({ code, details: known.message })
    }
    onAnswered(name, status[code], performance.now() - beganMs)
  }

  /** @throws BerthError unauthenticated, or permission_denied where the token is for something else. */
  async #admit (call: Call): Promise<FleetPrincipal> {
    const [header] = call.metadata.get('authorization')
    const token = findBearerToken(typeof header === 'string' ? header : undefined)
    if (token === undefined) throw new BerthError('unauthenticated', 'token_missing', 'a token is needed in the metadata: authorization: Bearer <token>')
    const principal = await this.#options.tokens.verify(token)
    if (!principal) throw new BerthError('unauthenticated', 'token_invalid', 'this bearer token is not known')
    if (principal.scope !== 'worker' && principal.scope !== 'admin') {
      throw new BerthError('permission_denied', 'scope_insufficient', 'this token is not for hosts: use one of scope worker')
    }
    return principal
  }
}
