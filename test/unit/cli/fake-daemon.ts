/** A daemon at the network boundary: real HTTP on a unix socket or a port, answers that the test writes. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Writable } from 'node:stream'
import type { TestContext } from 'node:test'
import type { CliContext } from '../../../src/cli/cli-context.ts'
import { runCli } from '../../../src/cli/program.ts'
import type { Sandbox } from '../../../src/schemas/sandbox.ts'
import type { Task } from '../../../src/schemas/task.ts'
import { makeTask } from '../routes/fake-tasks.ts'

export interface Call {
  method: string
  path: string
  query: URLSearchParams
  headers: http.IncomingHttpHeaders
  body: any
}

export type Handler = (call: Call, response: http.ServerResponse) => unknown

export interface FakeDaemon {
  socket: string
  url: string
  /** Answers by `METHOD /path`; a value is sent as JSON, undefined means that the handler wrote itself. */
  routes: Record<string, Handler>
  calls: Call[]
  /** Of one method and path. */
  callsTo: (key: string) => Call[]
  down: () => Promise<void>
  /** At the same address as before when given its port. */
  up: (port?: number) => Promise<void>
}

export const id = 'sbx_4k2m9tq7t1c8v3h5npaa'
export const otherId = 'sbx_4k2m0tq7t1c8v3h5npbb'
export const taskId = 'tsk_7x2m9tq7t1c8v3h5npcc'
export const execId = 'exe_8v3nq0c5b7m1k2i9tdaa'

/** A running sandbox, with what the test wants otherwise. */
export function sandbox (other: Partial<Sandbox> = {}): Sandbox {
  return {
    id,
    status: 'running',
    image: { reference: 'berth/base' },
    entrypoint: ['echo', 'hello'],
    env: {},
    workingDir: '/workspace',
    user: '1000:1000',
    resources: { cpuMillis: 2000, memoryBytes: 2 * 1024 ** 3, pids: 512 },
    labels: {},
    runtime: 'runsc',
    hostname: 'box',
    network: { egress: 'none', publish: [], gateway: false },
    createdAt: new Date(Date.now() - 300_000).toISOString(),
    startedAt: new Date(Date.now() - 300_000).toISOString(),
    timings: [{ step: 'rootfs', durationMs: 5 }, { step: 'container', durationMs: 200 }],
    leaks: [],
    ...other,
  }
}

export function ended (exitCode: number, other: Partial<NonNullable<Sandbox['end']>> = {}): Sandbox {
  return sandbox({ status: 'stopped', end: { reason: 'exited', at: new Date().toISOString(), exitCode, ...other } })
}

/** A task whose first attempt runs, with what the test wants otherwise. */
export function task (other: Partial<Task> = {}): Task {
  const startedAt = new Date(Date.now() - 300_000).toISOString()
  const timings = [{ step: 'rootfs', durationMs: 5 }, { step: 'container', durationMs: 200 }]
  return makeTask({}, {
    id: taskId,
    status: 'running',
    entrypoint: ['echo', 'hello'],
    attempts: [{ number: 1, status: 'running', sandboxId: id, logCursor: '0:0', claimedAt: startedAt, startedAt, timings }],
    sandboxId: id,
    createdAt: startedAt,
    startedAt,
    ...other,
  })
}

export function endedTask (exitCode: number, other: Partial<Task> = {}): Task {
  const at = new Date().toISOString()
  const { sandboxId: _, ...rest } = task({ status: exitCode === 0 ? 'complete' : 'failed', endedAt: at, end: { reason: 'exited', at, exitCode }, ...other })
  return rest
}

export function line (n: number, text: string, other: object = {}): string {
  return JSON.stringify({ type: 'line', cursor: `0:${n}`, at: '2026-03-01T09:30:00.000Z', stream: 'stdout', text, partial: false, ...other }) + '\n'
}

export function refuse (response: http.ServerResponse, status: number, kind: string, code: string, message: string): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ kind, code, message, requestId: 'req-7' }))
}

export async function startFakeDaemon (t: TestContext, routes: Record<string, Handler>, options: { tcp?: boolean } = {}): Promise<FakeDaemon> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-cli-'))
  const socket = join(dir, 's')
  let server: http.Server | undefined
  const fake: FakeDaemon = { socket, url: '', routes, calls: [], callsTo: key => fake.calls.filter(call => `${call.method} ${call.path}` === key), up, down }
  async function up (port = 0): Promise<void> {
    server = http.createServer((request, response) => { void answer(fake, request, response) })
    if (options.tcp) server.listen(port, '127.0.0.1')
    else server.listen(socket)
    await once(server, 'listening')
    if (options.tcp) fake.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
  async function down (): Promise<void> {
    if (!server) return
    const closed = once(server, 'close')
    server.close()
    server.closeAllConnections()
    server = undefined
    await closed
  }
  t.after(async () => {
    await down()
    await rm(dir, { recursive: true, force: true })
  })
  await up()
  return fake
}

async function answer (fake: FakeDaemon, request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const url = new URL(request.url ?? '/', 'http://fake')
  const text = Buffer.concat(chunks).toString()
  const call = { method: request.method ?? '', path: url.pathname, query: url.searchParams, headers: request.headers, body: text === '' ? undefined : JSON.parse(text) }
  fake.calls.push(call)
  const handler = fake.routes[`${call.method} ${call.path}`]
  if (!handler) return refuse(response, 404, 'not_found', 'route_not_found', `the fake has no ${call.method} ${call.path}`)
  const value = await handler(call, response)
  if (value !== undefined && !response.headersSent) response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}

export interface Ran {
  exitCode: number
  stdout: string
  stderr: string
}

export interface Running {
  done: Promise<Ran>
  /** What a Ctrl-C or SIGTERM does. */
  signal: (name: 'SIGINT' | 'SIGTERM') => void
  context: CliContext
}

/** Starts one command line against the fake. */
export function start (fake: FakeDaemon | undefined, argv: string[], other: Partial<CliContext> & { input?: string | Buffer } = {}): Running {
  const [stdout, stderr] = [collector(), collector()]
  const stdin = new PassThrough()
  stdin.end(other.input ?? '')
  const listeners: Array<[string, () => void]> = []
  const context: CliContext = {
    env: fake ? (fake.url ? { BERTH_URL: fake.url } : { BERTH_SOCKET: fake.socket }) : {},
    stdin,
    stdout,
    stderr,
    isTty: { stdin: false, stdout: false, stderr: false },
    version: '0.1.0',
    onSignal: (name, listener) => {
      const entry: [string, () => void] = [name, listener]
      listeners.push(entry)
      return () => { listeners.splice(listeners.indexOf(entry), 1) }
    },
    serve: async () => 0,
    gateway: async () => 0,
    doctor: async () => 0,
    comeBackMs: 5000,
    ...other,
  }
  const done = runCli(argv, context).then(exitCode => ({ exitCode, stdout: stdout.text(), stderr: stderr.text() }))
  return { done, context, signal: name => { for (const [own, listener] of [...listeners]) if (own === name) listener() } }
}

export function run (fake: FakeDaemon | undefined, argv: string[], other: Parameters<typeof start>[2] = {}): Promise<Ran> {
  return start(fake, argv, other).done
}

function collector (): Writable & { text: () => string } {
  const chunks: Buffer[] = []
  const stream = new Writable({
    write (chunk, _encoding, done) {
      chunks.push(Buffer.from(chunk))
      done()
    },
  })
  return Object.assign(stream, { text: () => Buffer.concat(chunks).toString() })
}

/** A pipe whose reader goes away after some bytes. */
export function closingPipe (afterBytes: number): Writable {
  let left = afterBytes
  return new Writable({
    write (chunk, _encoding, done) {
      left -= chunk.length
      done(left < 0 ? Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }) : null)
    },
  })
}
