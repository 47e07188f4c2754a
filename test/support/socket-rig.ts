/** WebSockets end to end without a sandbox: the HTTP face on a free port and on root's socket, and logs that the test writes. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { appendFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { pino } from 'pino'
import { WebSocket, type ClientOptions } from 'ws'
import { buildApp, defaultLimits, type AppServices } from '../../src/app.ts'
import { BerthError } from '../../src/errors.ts'
import { RootSocket } from '../../src/routes/root-socket.ts'
import { openStateDatabase } from '../../src/services/database.ts'
import { LogReader } from '../../src/services/logs/log-reader.ts'
import type { LogSource } from '../../src/services/logs/log-source.ts'
import { TicketStore } from '../../src/services/tokens/ticket-store.ts'
import { TokenStore } from '../../src/services/tokens/token-store.ts'
import { UpgradeKeeper } from '../../src/ws/upgrade-keeper.ts'
import { makeSandbox, makeServices } from '../unit/routes/fake-services.ts'
import { makeTerminals } from '../unit/routes/fake-terminals.ts'

/** What a log's socket sends. */
export interface Message {
  type: string
  cursor?: string
  time?: string
  stream?: string
  data?: string
  encoding?: 'base64'
  reason?: string
  exitCode?: number
  code?: string
}

export interface Refusal {
  status: number
  headers: IncomingHttpHeaders
  body: { code: string, kind: string, message: string, requestId: string }
}

export async function buildSocketRig (t: TestContext, options: { followerStallMs?: number, onBatch?: () => void } = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-sockets-'))
  const db = openStateDatabase(join(dir, 'berth.db'))
  const tokens = new TokenStore({ db })
  const tickets = new TicketStore()
  const { services, sandboxes } = makeServices()
  const terminals = makeTerminals(() => {})
  const [known, other] = [makeSandbox(), makeSandbox()]
  for (const one of [known, other]) sandboxes.set(one.id, one)
  const task = await services.tasks.create({ image: 'berth/base' }, {})
  const reader = new LogReader()
  const logs = new Map<string, TestLog>()
  const makeLog = (id: string): TestLog => {
    const made = new TestLog(join(dir, id), reader)
    logs.set(id, made)
    return made
  }
  const find = (id: string): LogSource => {
    const log = logs.get(id)
    if (!log) throw new BerthError('not_found', `${id.startsWith('tsk') ? 'task' : 'sandbox'}_not_found`, `there is no ${id}`)
    return log.source()
  }
  const closing = new AbortController()
  const upgrades = new UpgradeKeeper()
  const rootSocket: RootSocket = new RootSocket({
    path: join(dir, 'root.sock'),
    handle: (request, response) => app.routing(request, response),
    maxHeaderBytes: defaultLimits.headBytes,
    requestTimeoutMs: defaultLimits.requestTimeoutMs,
    upgrades,
  })
  const app = buildApp({
    services: {
      ...services,
      terminals,
      tokens,
      tickets,
      logSources: { sandboxLog: find, execLog: (_id, execId) => find(execId), taskLog: (id, attempt) => find(attempt === undefined ? id : `${id}/${attempt}`) },
      logs: {
        // Not a generator itself: what is wrong with the options is thrown at once.
        readBatches: (read: Parameters<LogReader['readBatches']>[0]) => counted(reader.readBatches(read), options.onBatch),
      } as AppServices['logs'],
    },
    logger: pino({ level: 'silent' }),
    version: '0.0.0',
    closing: closing.signal,
    isTrusted: socket => rootSocket.has(socket),
    upgrades,
    ...(options.followerStallMs === undefined ? {} : { limits: { followerStallMs: options.followerStallMs } }),
  })
  await app.listen({ host: '127.0.0.1', port: 0 })
  await rootSocket.open()
  const { port } = app.server.address() as AddressInfo
  const clients: WebSocket[] = []

  async function close (): Promise<void> {
    closing.abort(new BerthError('unavailable', 'host_stopping', 'the daemon is shutting down'))
    await app.close()
    await rootSocket.close()
  }
  t.after(async () => {
    for (const client of clients) client.terminate()
    await close()
    db.close()
    rmSync(dir, { recursive: true })
    assert.equal(reader.watchedCount, 0, 'followers are left')
  })

  const admin = tokens.create({ name: 'admin', scope: 'admin' }).token
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
  const address = (path: string, isRoot: boolean) => isRoot ? `ws+unix://${join(dir, 'root.sock')}:${path}` : `ws://127.0.0.1:${port}${path}`
  const open = (path: string, { headers = bearer(admin), protocols = [], isRoot = false, ...other }: Ask = {}): WebSocket => {
    const socket = new WebSocket(address(path, isRoot), protocols, { headers, perMessageDeflate: false, ...other })
    socket.on('error', () => {})
    clients.push(socket)
    return socket
  }
  return {
    app,
    port,
    tokens,
    tickets,
    terminals,
    admin,
    sandbox: known,
    other,
    task,
    reader,
    makeLog,
    close,
    bearer,
    asReader: bearer(tokens.create({ name: 'read', scope: 'read' }).token),
    asSandbox: bearer(tokens.create({ name: 'own', scope: 'sandbox', sandboxId: known.id }).token),
    asOther: bearer(tokens.create({ name: 'other', scope: 'sandbox', sandboxId: other.id }).token),
    pathTo: (query = '') => `/v1/sandboxes/${known.id}/logs/ws${query}`,
    open,
    /** All messages of a socket, until it is closed. */
    async tail (path: string, asked: Ask = {}) {
      return await untilClosed(open(path, asked))
    },
    /** The answer to an upgrade that is refused. */
    async refused (path: string, asked: Ask = {}): Promise<Refusal> {
      const socket = open(path, asked)
      socket.once('open', () => socket.emit('unexpected-response', undefined, undefined))
      const [, answer] = await once(socket, 'unexpected-response') as [unknown, IncomingMessage | undefined]
      assert.ok(answer, 'the upgrade was not refused')
      const chunks: Buffer[] = []
      for await (const chunk of answer) chunks.push(chunk as Buffer)
      return { status: answer.statusCode!, headers: answer.headers, body: JSON.parse(Buffer.concat(chunks).toString()) }
    },
  }
}

async function * counted<T> (batches: AsyncIterable<T>, onBatch = () => {}): AsyncGenerator<T> {
  for await (const batch of batches) {
    onBatch()
    yield batch
  }
}

export interface Ask extends ClientOptions {
  headers?: Record<string, string>
  protocols?: string[]
  /** By root's unix socket. */
  isRoot?: boolean
}

export async function untilClosed (socket: WebSocket): Promise<{ messages: Message[], code: number, reason: string }> {
  const messages: Message[] = []
  socket.on('message', (data, isBinary) => {
    assert.equal(isBinary, false)
    messages.push(JSON.parse(String(data)))
  })
  const [code, reason] = await once(socket, 'close') as [number, Buffer]
  return { messages, code, reason: String(reason) }
}

/** The bytes of one stream, or of both in their order. */
export function bytesOf (messages: readonly Message[], stream?: string): Buffer {
  const output = messages.filter(({ type, stream: of }) => type === 'output' && (stream === undefined || of === stream))
  return Buffer.concat(output.map(({ data, encoding }) => Buffer.from(data!, encoding ?? 'utf8')))
}

/** A log as conmon writes it. */
class TestLog {
  readonly #dir: string
  readonly #reader: LogReader
  #end: { reason: string, exitCode?: number } | undefined

  constructor (dir: string, reader: LogReader) {
    this.#dir = dir
    this.#reader = reader
    mkdirSync(dir, { recursive: true })
  }

  source (): LogSource {
    return { dir: this.#dir, isEnded: () => this.#end !== undefined, end: () => this.#end }
  }

  /** Whole lines, without their ends. */
  write (lines: ReadonlyArray<string | Buffer>, stream = 'stdout'): this {
    const head = Buffer.from(`2026-03-01T09:30:00.000000000+00:00 ${stream} F `)
    const end = Buffer.from('\n')
    appendFileSync(join(this.#dir, 'log'), Buffer.concat(lines.flatMap(line => [head, Buffer.from(line as string), end])))
    return this
  }

  end (exitCode: number): this {
    this.#end = { reason: 'exited', exitCode }
    this.#reader.wake(this.#dir)
    return this
  }
}
