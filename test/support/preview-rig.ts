/** Previews end to end without a sandbox: the HTTP face on a free port, and programs on this machine in the place of those inside. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import http, { type IncomingHttpHeaders, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import net, { type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { pino } from 'pino'
import { buildApp } from '../../src/app.ts'
import { BerthError } from '../../src/errors.ts'
import { PreviewGate } from '../../src/routes/preview.ts'
import { openStateDatabase } from '../../src/services/database.ts'
import { PreviewForwarder } from '../../src/services/network/preview-forwarder.ts'
import { PreviewSessions } from '../../src/services/tokens/preview-sessions.ts'
import { TicketStore } from '../../src/services/tokens/ticket-store.ts'
import { TokenStore } from '../../src/services/tokens/token-store.ts'
import { makeSandbox, makeServices } from '../unit/routes/fake-services.ts'

export const previewDomain = 'preview.test'

export interface Reply {
  status: number
  headers: IncomingHttpHeaders
  rawHeaders: string[]
  text: string
  trailers: NodeJS.Dict<string>
}

export interface Ask {
  method?: string
  headers?: Record<string, string | string[]>
  body?: string | Buffer
  agent?: http.Agent
}

export type PreviewRig = Awaited<ReturnType<typeof buildPreviewRig>>

export async function buildPreviewRig (t: TestContext, options: { connectTimeoutMs?: number, requestTimeoutMs?: number, host?: string } = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-preview-'))
  const db = openStateDatabase(join(dir, 'berth.db'))
  const tokens = new TokenStore({ db })
  const tickets = new TicketStore()
  const sessions = new PreviewSessions({ db, isTokenValid: id => tokens.isValid(id) })
  const activity: string[] = []
  const { services, sandboxes, calls } = makeServices()
  const known = makeSandbox()
  const other = makeSandbox()
  for (const one of [known, other]) sandboxes.set(one.id, one)
  const forwarder = new PreviewForwarder({
    targets: {
      previewTarget (id) {
        const { status } = services.sandboxes.get(id)
        if (status !== 'running') throw new BerthError('conflict', 'invalid_state', `the sandbox is ${status}`)
        return { host: options.host ?? '127.0.0.1' }
      },
    },
    beginActivity (id) {
      activity.push(`${id} begins`)
      return () => { activity.push(`${id} ends`) }
    },
    ...(options.connectTimeoutMs === undefined ? {} : { connectTimeoutMs: options.connectTimeoutMs }),
  })
  const closing = new AbortController()
  const { signal } = closing
  const gate = new PreviewGate({ tokens, tickets, sessions, forwarder, previewDomain, isTrusted: () => false, closing: signal, forcing: signal, log: { error: () => {} } })
  const app = buildApp({
    services: { ...services, tokens, tickets },
    logger: pino({ level: 'silent' }),
    version: '0.0.0',
    closing: closing.signal,
    previews: gate,
    ...(options.requestTimeoutMs === undefined ? {} : { limits: { requestTimeoutMs: options.requestTimeoutMs } }),
  })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const releases: Array<() => Promise<void>> = []
  t.after(async () => {
    closing.abort(new BerthError('unavailable', 'host_stopping', 'the daemon is shutting down'))
    forwarder.open.close()
    await app.close()
    for (const release of releases) await release()
    db.close()
    rmSync(dir, { recursive: true })
    assert.equal(forwarder.open.count(), 0, 'previews are left open')
  })

  /** A server on this machine, in the place of a program in the sandbox; its open connections are in `sockets`. */
  async function listen (server: net.Server): Promise<{ port: number, sockets: Set<Socket> }> {
    const sockets = new Set<Socket>()
    server.on('connection', socket => {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.once('close', () => sockets.delete(socket))
    })
    server.listen(0, options.host ?? '127.0.0.1')
    await once(server, 'listening')
    releases.push(async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    })
    return { port: (server.address() as AddressInfo).port, sockets }
  }

  const admin = tokens.create({ name: 'admin', scope: 'admin' }).token
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
  return {
    app,
    port,
    tokens,
    tickets,
    sessions,
    forwarder,
    activity,
    calls,
    closing,
    sandboxes,
    sandbox: known,
    other,
    listen,
    asAdmin: bearer(admin),
    asReader: bearer(tokens.create({ name: 'read', scope: 'read' }).token),
    asSandbox: bearer(tokens.create({ name: 'own', scope: 'sandbox', sandboxId: known.id }).token),
    asOther: bearer(tokens.create({ name: 'other', scope: 'sandbox', sandboxId: other.id }).token),
    serve: (handle: RequestListener) => listen(http.createServer({ keepAliveTimeout: 60_000 }, handle)),
    serveRaw: (handle: (socket: Socket) => void) => listen(net.createServer(handle)),
    pathTo: (programPort: number, path = '/') => `/v1/sandboxes/${known.id}/ports/${programPort}${path}`,
    hostOf: (programPort: number) => `${programPort}-${known.id.replace('_', '-')}.${previewDomain}:${port}`,
    ask: (path: string, asked: Ask = {}) => ask(port, path, asked),
    open: (path: string, asked: Ask = {}) => openRequest(port, path, asked),
  }
}

/** A request whose answer is still to be read. */
export async function openRequest (port: number, path: string, { method = 'GET', headers = {}, body, agent }: Ask): Promise<{ request: http.ClientRequest, answer: IncomingMessage }> {
  const request = http.request({ host: '127.0.0.1', port, path, method, headers, agent: agent ?? false })
  request.end(body)
  const [answer] = await once(request, 'response') as [IncomingMessage]
  return { request, answer }
}

async function ask (port: number, path: string, asked: Ask): Promise<Reply> {
  const { answer } = await openRequest(port, path, asked)
  const chunks: Buffer[] = []
  for await (const chunk of answer) chunks.push(chunk as Buffer)
  return { status: answer.statusCode ?? 0, headers: answer.headers, rawHeaders: answer.rawHeaders, text: Buffer.concat(chunks).toString(), trailers: answer.trailers }
}

/** Answers with what the program was asked: method, path, headers, body. */
export function mirror (request: IncomingMessage, response: ServerResponse): void {
  const chunks: Buffer[] = []
  request.on('data', chunk => chunks.push(chunk as Buffer))
  request.on('end', () => {
    const body = Buffer.concat(chunks).toString()
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers, rawHeaders: request.rawHeaders, body, trailers: request.trailers }))
  })
}

/** Waits until something holds, by looking again and again; the test's own time is the limit. */
export async function until (holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise(resolve => setTimeout(resolve, 2))
}
