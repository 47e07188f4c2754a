/** The gateway's routes of tasks and logs over a real port, with hosts that are small servers, and queue and buffer in memory. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { pino } from 'pino'
import { fetch } from 'undici'
import { WebSocket, type ClientOptions } from 'ws'
import { BerthError } from '../../../../src/errors.ts'
import { fleetSocketDoor } from '../../../../src/gateway/fleet-socket-door.ts'
import { gatewaySchemas } from '../../../../src/gateway/gateway-document.ts'
import type { KeptEntry, KeptOutput, OutputBuffer } from '../../../../src/gateway/logs/buffered-output.ts'
import { FleetLogs } from '../../../../src/gateway/logs/fleet-logs.ts'
import { gatewayLogRoutes } from '../../../../src/gateway/logs/gateway-log-routes.ts'
import { gatewayLogTailRoutes } from '../../../../src/gateway/logs/gateway-log-tail.ts'
import { HostLogClient } from '../../../../src/gateway/logs/host-log-client.ts'
import { FleetTasks, type FleetTasksOptions } from '../../../../src/gateway/tasks/fleet-tasks.ts'
import { gatewayTaskRoutes } from '../../../../src/gateway/tasks/gateway-task-routes.ts'
import type { FleetPrincipal, WorkerAccess } from '../../../../src/gateway/worker-record.ts'
import { ChangeSignal } from '../../../../src/lib/change-signal.ts'
import { addErrorAnswers } from '../../../../src/routes/http-errors.ts'
import { addClosing, addManners, createHttpServer, defaultHttpLimits } from '../../../../src/routes/http-server.ts'
import { componentSchemas } from '../../../../src/schemas/components.ts'
import type { LogRecord, LogStream } from '../../../../src/schemas/log.ts'
import { toSseFrame } from '../../../../src/services/logs/log-format.ts'
import { deliveryId } from '../../../../src/services/tasks/delivery-id.ts'
import type { TaskRecord } from '../../../../src/services/tasks/task-record.ts'
import { defaultSocketLimits } from '../../../../src/ws/json-socket.ts'
import { UpgradeKeeper } from '../../../../src/ws/upgrade-keeper.ts'

type LineRecord = Extract<LogRecord, { type: 'line' }>

const at = '2026-03-01T09:30:00.000Z'

/** A log of whole lines: the cursor behind line n is `0:<n + 1>`. */
export class FakeHost {
  readonly #logs = new Map<string, { lines: LineRecord[], isEnded: boolean }>()
  readonly #changes = new ChangeSignal()
  readonly #sockets = new Set<Socket>()
  readonly queries: URLSearchParams[] = []
  readonly tokens = new Set<string | undefined>()
  #server: Server | undefined
  #port = 0
  /** Answers nothing, and keeps connections. */
  isMute = false

  get url (): string { return `http://127.0.0.1:${this.#port}` }
  get openCount (): number { return this.#sockets.size }

  /** At the same address as before. */
  async start (): Promise<void> {
    const server = createServer((request, response) => { void this.#answer(request, response) })
    server.on('connection', socket => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    server.listen(this.#port, '127.0.0.1')
    await once(server, 'listening')
    this.#server = server
    this.#port = (server.address() as AddressInfo).port
  }

  /** Dies in the middle of what it says. */
  async stop (): Promise<void> {
    if (!this.#server) return
    const closed = once(this.#server, 'close')
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    this.#server = undefined
    this.#changes.notify()
    await closed
  }

  write (taskId: string, fence: number, lines: readonly string[], stream: LogStream = 'stdout'): void {
    const log = this.#logOf(deliveryId({ taskId, fence }))
    for (const text of lines) log.lines.push({ type: 'line', cursor: `0:${log.lines.length + 1}`, at, stream, text, partial: false })
    this.#changes.notify()
  }

  end (taskId: string, fence: number): void {
    this.#logOf(deliveryId({ taskId, fence })).isEnded = true
    this.#changes.notify()
  }

  #logOf (id: string) {
    const known = this.#logs.get(id) ?? { lines: [], isEnded: false }
    this.#logs.set(id, known)
    return known
  }

  async #answer (request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.tokens.add(request.headers.authorization)
    const { pathname, searchParams: query } = new URL(request.url!, this.url)
    this.queries.push(query)
    const log = this.#logs.get(/^\/v1\/tasks\/(\w+)\/logs$/.exec(pathname)?.[1] ?? '')
    if (!log) {
      response.writeHead(404, { 'content-type': 'application/json' }).end('{"code":"task_not_found"}')
      return
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write(': still here\n\n')
    const stream = query.get('stream')
    const isWanted = (line: LineRecord) => stream === null || line.stream === stream
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    let next = Number(query.get('cursor')?.split(':')[1] ?? 0)
    const tail = query.get('tail')
    if (tail !== null) next = log.lines.length - log.lines.filter(isWanted).slice(Math.max(0, log.lines.filter(isWanted).length - Number(tail))).length
    for (;;) {
      const isEnded = log.isEnded
      for (; next < log.lines.length && !this.isMute; next++) {
        const line = log.lines[next]!
        if (isWanted(line)) response.write(toSseFrame(line))
      }
      if (isEnded || query.get('follow') !== 'true') break
      await this.#changes.wait(gone.signal)
      if (gone.signal.aborted) return
    }
    if (!this.isMute) response.end('event: end\ndata: {"type":"end","reason":"exited"}\n\n')
  }
}

export class FakeBuffer implements OutputBuffer {
  #entries: KeptEntry[] = []
  readonly #complete = new Set<number>()
  readonly #changes = new ChangeSignal()

  write (fence: number, lines: readonly string[], { stream = 'stdout' as LogStream, from = 0 } = {}): void {
    const first = this.#entries.filter(entry => entry.fence === fence).at(-1)?.seq ?? from - 1
    for (const [index, text] of lines.entries()) {
      const seq = first + 1 + index
      this.#entries.push({ fence, seq, cursor: `0:${seq + 1}:-`, at, stream, data: Buffer.from(text), isLineEnd: true })
    }
    this.#changes.notify()
  }

  complete (fence: number): void {
    this.#complete.add(fence)
    this.#changes.notify()
  }

  async read (): Promise<KeptOutput> {
    return { entries: this.#entries, complete: this.#complete }
  }

  async * follow (_task: TaskRecord, signal: AbortSignal): AsyncGenerator<KeptOutput> {
    for (let next = 0; !signal.aborted; await this.#changes.wait(signal)) {
      const entries = this.#entries.slice(next)
      next += entries.length
      yield { entries, complete: this.#complete }
    }
  }
}

/** Tasks as a test says that they are. */
export class FakeTable {
  readonly #records = new Map<string, TaskRecord>()
  readonly #listeners = new Map<string, Set<() => void>>()

  put (record: TaskRecord): TaskRecord {
    this.#records.set(record.id, record)
    for (const listener of this.#listeners.get(record.id) ?? []) listener()
    return record
  }

  get = async (id: string): Promise<TaskRecord | undefined> => this.#records.get(id)

  watch = (id: string, listener: () => void): (() => void) => {
    const listeners = this.#listeners.get(id) ?? new Set()
    this.#listeners.set(id, listeners.add(listener))
    return () => listeners.delete(listener)
  }

  watchedCount (id: string): number { return this.#listeners.get(id)?.size ?? 0 }
}

const stopping = () => new BerthError('unavailable', 'gateway_stopping', 'the gateway is shutting down')

export const admin: FleetPrincipal = { id: 'tok_admin', scope: 'admin' }

const principals: Readonly<Record<string, FleetPrincipal>> = {
  admin,
  read: { id: 'tok_read', scope: 'read' },
  gpu: { id: 'tok_gpu', scope: 'client', pools: ['gpu'] },
  worker: { id: 'tok_worker', scope: 'worker' },
}

const isTail = ({ url }: { url: string }) => url.includes('/logs/ws')

export interface FleetRigOptions {
  tasks?: Partial<FleetTasksOptions>
  silenceMs?: number
  heartbeatMs?: number
}

export async function buildFleetRig (t: TestContext, { tasks: parts = {}, silenceMs = 60_000, heartbeatMs = 15_000 }: FleetRigOptions = {}) {
  const table = new FakeTable()
  const buffer = new FakeBuffer()
  const [a, b] = [new FakeHost(), new FakeHost()]
  await Promise.all([a.start(), b.start()])
  const hosts = new Map([['hst_a', a], ['hst_b', b]])
  const workers = {
    list: async () => [],
    access: async (id: string): Promise<WorkerAccess> => {
      const host = hosts.get(id)
      if (!host) throw new BerthError('not_found', 'worker_not_found', 'there is no such worker')
      return { worker: { id } as WorkerAccess['worker'], url: host.url, token: `token-of-${id}` }
    },
  }
  const client = new HostLogClient({ workers, times: { silenceMs }, restMs: 0 })
  const logs = new FleetLogs({ table, hosts: client, buffer, retry: { firstMs: 5, longestMs: 20 }, overdueMs: 20, patienceMs: 50 })
  const unused = () => { throw new Error('of no use here') }
  const queue = { push: unused, cancel: unused, retry: unused, stats: async () => [] }
  const tasks = new FleetTasks({ queue, table: { list: unused, remove: unused, get: table.get, watch: table.watch }, workers, ...parts })
  const closing = new AbortController()
  const upgrades = new UpgradeKeeper()
  const app = createHttpServer({
    logger: pino({ level: 'silent' }), limits: defaultHttpLimits, closing: closing.signal, shouldUpgrade: request => upgrades.shouldUpgrade(request),
  })
  app.server.on('upgrade', (request, socket, head) => upgrades.handleUpgrade(request, socket, head, app.routing))
  addManners(app)
  addClosing(app, { ending: closing, closing: closing.signal, reason: stopping })
  addErrorAnswers(app, { closing: closing.signal, bodyBytes: defaultHttpLimits.bodyBytes })
  app.decorateRequest('idempotent', undefined)
  app.decorateRequest('fleetPrincipal', undefined)
  const principal = { now: admin }
  app.addHook('onRequest', async request => {
    // Of a WebSocket only what comes in a header is known here.
    if (!isTail(request) || request.headers.authorization !== undefined) request.fleetPrincipal = principal.now
  })
  for (const schema of componentSchemas(gatewaySchemas)) app.addSchema(schema)
  void app.register(gatewayTaskRoutes, { prefix: '/v1', tasks, closing: closing.signal })
  void app.register(gatewayLogRoutes, { prefix: '/v1', tasks, logs, streams: { closing: closing.signal, heartbeatMs } })
  const door = fleetSocketDoor({ verify: async token => principals[token] })
  void app.register(gatewayLogTailRoutes, { prefix: '/v1', tasks, logs, sockets: { upgrades, door, limits: defaultSocketLimits, closing: closing.signal } })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  t.after(async () => {
    await app.close()
    await client.close()
    await Promise.all([a.stop(), b.stop()])
  })
  return {
    table,
    buffer,
    a,
    b,
    logs,
    app,
    tasks,
    /** Who asks from then on. */
    as (who: FleetPrincipal) { principal.now = who },
    closing,
    /** Offers a token as browsers do: that of a scope is its name. */
    socket: (path: string, protocols: string[] = ['berth.v1', 'bearer.admin'], options: ClientOptions = {}) => {
      const socket = new WebSocket(`${url.replace(/^http/, 'ws')}${path}`, protocols, options)
      socket.on('error', () => {})
      return socket
    },
    open: (path: string, headers: Record<string, string> = {}, signal?: AbortSignal) => fetch(`${url}${path}`, { headers, signal: signal ?? null }),
    text: async (path: string, headers: Record<string, string> = {}) => await (await fetch(`${url}${path}`, { headers })).text(),
  }
}
