/** A gateway's face with nothing behind it but a host that a test makes: real sockets on both sides, and workers and tokens that are told. */
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { once } from 'node:events'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { pino } from 'pino'
import { BerthError } from '../../../../src/errors.ts'
import { ProxyDoor } from '../../../../src/gateway/proxy/proxy-door.ts'
import { WorkerLinks } from '../../../../src/gateway/proxy/worker-links.ts'
import { WorkerProxy } from '../../../../src/gateway/proxy/worker-proxy.ts'
import { workerProxyRoutes } from '../../../../src/gateway/proxy/worker-proxy-routes.ts'
import type { FleetPrincipal, WorkerAccess, WorkerRecord, Workers } from '../../../../src/gateway/worker-record.ts'
import { addErrorAnswers } from '../../../../src/routes/http-errors.ts'
import { findBearerToken } from '../../../../src/routes/authentication.ts'
import { addManners, createHttpServer, defaultHttpLimits } from '../../../../src/routes/http-server.ts'

interface Teardown { after: (release: () => Promise<void>) => void }

export const hostToken = 'token-of-the-host'

/** Their tokens are their names. */
export const principals: Readonly<Record<string, FleetPrincipal>> = {
  admin: { id: 'tok_admin', scope: 'admin' },
  client: { id: 'tok_client', scope: 'client' },
  other: { id: 'tok_other', scope: 'client', pools: ['elsewhere'] },
  read: { id: 'tok_read', scope: 'read' },
  worker: { id: 'tok_worker', scope: 'worker' },
}

export function workerRecord (id: string, facts: Partial<WorkerRecord> = {}): WorkerRecord {
  return {
    id,
    hostname: id,
    pool: 'default',
    version: '1',
    status: 'available',
    labels: {},
    capacity: { cpuMillis: 8000, memoryBytes: 32 * 1024 ** 3 },
    free: { cpuMillis: 8000, memoryBytes: 32 * 1024 ** 3 },
    sandboxes: 0,
    tasks: 0,
    apiUrl: 'http://127.0.0.1:1',
    apiCa: '',
    registeredAtMs: 0,
    lastSeenAtMs: 0,
    isLost: false,
    ...facts,
  }
}

export class FakeWorkers implements Workers {
  readonly access_ = new Map<string, WorkerAccess>()
  readonly reserved: string[] = []
  looks = 0

  add (id: string, url: string, facts: Partial<WorkerRecord> & { ca?: string } = {}): void {
    const { ca, ...record } = facts
    this.access_.set(id, { worker: workerRecord(id, { apiUrl: url, ...record }), url, token: hostToken, ...(ca === undefined ? {} : { ca }) })
  }

  get = async (id: string) => (await this.access(id)).worker
  list = async ({ pool }: { pool?: string } = {}) => [...this.access_.values()].map(({ worker }) => worker).filter(worker => pool === undefined || worker.pool === pool)
  access = async (id: string) => {
    this.looks++
    const access = this.access_.get(id)
    if (!access) throw new BerthError('not_found', 'worker_not_found', 'no worker has this id')
    return access
  }

  reserve = async (id: string) => { this.reserved.push(id) }
  wish = async () => {}
  remove = async () => {}
}

/** A host's API, as a test has it. */
export class FakeHost {
  readonly server: Server
  readonly requests: IncomingMessage[] = []
  readonly sockets = new Set<Socket>()
  url = ''

  constructor (server: Server) {
    this.server = server
  }

  static async start (t: Teardown, handle: RequestListener, server: Server = createServer()): Promise<FakeHost> {
    const host = new FakeHost(server)
    server.on('connection', socket => {
      host.sockets.add(socket)
      socket.once('close', () => host.sockets.delete(socket))
    })
    server.on('request', (request, response) => {
      host.requests.push(request)
      handle(request, response)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    host.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    t.after(() => host.stop())
    return host
  }

  async stop (): Promise<void> {
    const closed = new Promise(resolve => this.server.close(resolve))
    for (const socket of this.sockets) socket.destroy()
    await closed
  }
}

export interface Rig {
  workers: FakeWorkers
  links: WorkerLinks
  proxy: WorkerProxy
  app: FastifyInstance
  url: string
  port: number
  closing: AbortController
}

/** Listens, with the worker `w1` where a host is given. `more` registers further routes. */
export async function startGateway (
  t: Teardown, host?: FakeHost, more?: (app: FastifyInstance, rig: Pick<Rig, 'workers' | 'links' | 'proxy'>) => void, consoleDirectory?: string
): Promise<Rig> {
  const workers = new FakeWorkers()
  if (host) workers.add('w1', host.url)
  const closing = new AbortController()
  const links = new WorkerLinks({ workers })
  const door = new ProxyDoor()
  const proxy = new WorkerProxy({ links, door, tokens: { verify: token => principals[token] }, closing: closing.signal })
  const app = createHttpServer({ logger: pino({ level: 'silent' }), limits: defaultHttpLimits, closing: closing.signal, shouldUpgrade: request => door.shouldUpgrade(request) })
  app.server.on('upgrade', (request, socket, head) => door.handleUpgrade(request, socket, head, app.routing))
  app.server.on('checkContinue', (request, response) => door.handleContinue(request, response, app.routing))
  addManners(app)
  addErrorAnswers(app, { closing: closing.signal, bodyBytes: 1024 })
  await app.register(workerProxyRoutes, { prefix: '/v1', proxy, ...consoleDirectory !== undefined && { consoleDirectory } })
  more?.(app, { workers, links, proxy })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  t.after(async () => {
    closing.abort()
    links.close()
    app.server.closeAllConnections()
    await app.close()
  })
  return { workers, links, proxy, app, url, port: Number(new URL(url).port), closing }
}

/** As a gateway's authentication has found. */
export function principalOf (request: FastifyRequest): FleetPrincipal {
  const principal = principals[findBearerToken(request.headers.authorization) ?? '']
  if (!principal) throw new BerthError('unauthenticated', 'token_invalid', 'this bearer token is not known')
  return principal
}

export const as = (name: string, headers: Record<string, string> = {}) => ({ authorization: `Bearer ${name}`, ...headers })
