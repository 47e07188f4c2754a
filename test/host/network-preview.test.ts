/** Ports of sandboxes, seen through the daemon: lines of the table in docs/network.md, and what browsers do. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { copyFileSync } from 'node:fs'
import http, { type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Agent, WebSocket } from 'undici'
import type { Sandbox, SandboxCreate } from '../../src/schemas/sandbox.ts'
import { eventually } from '../support/host-surgery.ts'
import { prover } from '../support/network-table.ts'
import { makeProbeImage } from '../support/probe-client.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const port = 8000
const megabyte = 1024 ** 2
const previewDomain = 'preview.test'
const program = new URL('../support/previewed-program.ts', import.meta.url).pathname

interface Asked { method?: string, headers?: http.OutgoingHttpHeaders, body?: Readable | string }
interface Reply { status: number, headers: http.IncomingHttpHeaders, text: string }

/** A way to the port of a sandbox. */
class Door {
  readonly #place: http.RequestOptions
  readonly #prefix: string
  readonly #headers: Record<string, string>
  readonly #dispatcher: Agent

  constructor (place: http.RequestOptions, prefix: string, headers: Record<string, string>) {
    this.#place = place
    this.#prefix = prefix
    this.#headers = headers
    this.#dispatcher = new Agent({ connect: place.socketPath ? { socketPath: place.socketPath } : { lookup: (_name, _options, found) => found(null, [{ address: '127.0.0.1', family: 4 }]) } })
  }

  /** A request whose answer is still to be read. */
  async open (path: string, { method = 'GET', headers = {}, body }: Asked = {}): Promise<IncomingMessage> {
    const request = http.request({ ...this.#place, agent: false, method, path: this.#prefix + path, headers: { ...this.#headers, ...headers } })
    // A failed upload shows in the answer, or in that there is none.
    const failed = once(request, 'error').then(([error]) => { throw error })
    if (body instanceof Readable) body.pipe(request)
    else request.end(body)
    const [answer] = await Promise.race([once(request, 'response'), failed]) as [IncomingMessage]
    failed.catch(() => {})
    return answer
  }

  async ask (path: string, asked: Asked = {}): Promise<Reply> {
    const answer = await this.open(path, asked)
    return { status: answer.statusCode ?? 0, headers: answer.headers, text: Buffer.concat(await answer.toArray() as Buffer[]).toString() }
  }

  async webSocket (path: string, protocols: string[] = []): Promise<WebSocket> {
    const { host = `${this.#place.host ?? 'localhost'}:${this.#place.port ?? 80}`, ...headers } = this.#headers
    const socket = new WebSocket(`ws://${host}${this.#prefix}${path}`, { protocols, headers, dispatcher: this.#dispatcher })
    socket.binaryType = 'arraybuffer'
    await once(socket, 'open')
    return socket
  }

  async close (): Promise<void> {
    await this.#dispatcher.destroy()
  }
}

function * blocks (count: number): Generator<Buffer> {
  for (let n = 0; n < count; n++) yield randomBytes(megabyte)
}

test('ports of sandboxes are seen through the daemon', { concurrency: true }, async t => {
  const daemon = await TestDaemon.start(t, { env: { BERTH_PREVIEW_DOMAIN: previewDomain, BERTH_SHUTDOWN_GRACE_MS: '500', BERTH_NETWORK_POOL_SIZE: '3' } })
  const image = makeProbeImage(t)
  copyFileSync(program, join(image, 'program.ts'))
  const make = async (more: Partial<SandboxCreate> = {}) => await daemon.create({ image: `dir:${image}`, entrypoint: ['/node', '/program.ts', String(port)], ...more })
  const [main, other, idle] = await Promise.all([make(), make(), make({ idleTimeoutMs: 2000 })])
  const tcp = { host: '127.0.0.1', port: Number(new URL(daemon.url).port) }
  const admin = { authorization: `Bearer ${daemon.token}` }
  const doors: Door[] = []
  t.after(async () => { for (const door of doors) await door.close() })
  const open = (...args: ConstructorParameters<typeof Door>): Door => {
    const door = new Door(...args)
    doors.push(door)
    return door
  }
  const pathOf = ({ id }: Sandbox, to = port) => `/v1/sandboxes/${id}/ports/${to}`
  const hostOf = ({ id }: Sandbox) => `${port}-${id.replace('_', '-')}.${previewDomain}:${tcp.port}`
  const byPath = (sandbox: Sandbox, headers: Record<string, string> = admin, to = port) => open(tcp, pathOf(sandbox, to), headers)
  const byHost = (sandbox: Sandbox, headers: Record<string, string> = admin) => open(tcp, '', { host: hostOf(sandbox), ...headers })
  const ways = { 'TCP port': byPath(main), 'root socket': open({ socketPath: daemon.socketPath }, pathOf(main), {}), 'host name': byHost(main) }
  for (const sandbox of [main, other, idle]) await eventually(async () => (await byPath(sandbox).ask('/seen')).status === 200, 'the program listens')
  const prove = prover(t)

  /** Events that were sent while somebody watches, as they come. */
  async function assertSteps (door: Door, watched: IncomingMessage): Promise<void> {
    const chunks = watched[Symbol.asyncIterator]()
    for (let n = 0; n < 3; n++) {
      const next = chunks.next()
      assert.notEqual((await door.ask('/step', { method: 'POST' })).text, '0')
      assert.match(String((await next).value), /^(data: \d+\n\n)+$/)
    }
  }

  async function assertEcho (socket: WebSocket): Promise<void> {
    for (const [sent, data] of [['grüße', 'grüße'], [Uint8Array.of(0, 255, 7), Uint8Array.of(0, 255, 7).buffer]] as const) {
      const came = once(socket, 'message')
      socket.send(sent)
      assert.deepEqual((await came as [MessageEvent])[0].data, data)
    }
  }

  /** What a browser gets by a ticket of a token: the way in, and who is let in by it. */
  async function ticketFor (sandbox: Sandbox, headers: Record<string, string> = admin): Promise<string> {
    const { status, text, body } = await daemon.request<{ ticket: string }>('POST', '/v1/tickets', { sandboxId: sandbox.id, scope: 'preview', port }, headers)
    assert.equal(status, 201, text)
    return body.ticket
  }

  await Promise.all([
    prove('an answer through the preview that is sent bit by bit', async () => {
      for (const door of Object.values(ways)) {
        const watched = await door.open('/steps')
        assert.equal(watched.headers['content-type'], 'text/event-stream')
        await assertSteps(ways['TCP port'], watched)
        watched.destroy()
      }
    }),
    prove('50 MiB through the preview, up and down', async () => {
      const sent = createHash('sha256')
      const body = Readable.from(blocks(50), { objectMode: false }).on('data', chunk => sent.update(chunk as Buffer))
      const answer = await ways['TCP port'].open('/mirror', { method: 'POST', body })
      const got = createHash('sha256')
      for await (const chunk of answer) got.update(chunk as Buffer)
      assert.equal(got.digest('hex'), sent.digest('hex'))
      const [known, wanted] = [createHash('sha256'), createHash('sha256')]
      for await (const chunk of await ways['host name'].open('/bytes/50')) known.update(chunk as Buffer)
      for (let n = 0; n < 50; n++) wanted.update(Buffer.alloc(megabyte, 'berth'))
      assert.equal(known.digest('hex'), wanted.digest('hex'))
    }),
    prove('a WebSocket through the preview', async () => {
      for (const [name, door] of Object.entries(ways)) {
        const socket = await door.webSocket('/live', ['chat.v2', 'chat.v1'])
        assert.equal(socket.protocol, 'chat.v2', name)
        await assertEcho(socket)
        const closed = once(socket, 'close')
        socket.close(1000)
        assert.equal((await closed as [CloseEvent])[0].code, 1000, name)
      }
    }),
    prove('a preview with the token of another sandbox', async () => {
      const { status, text, body } = await daemon.request<{ token: string }>('POST', `/v1/sandboxes/${main.id}/tokens`, { name: 'own' })
      assert.equal(status, 201, text)
      const own = { authorization: `Bearer ${body.token}` }
      assert.equal((await byPath(main, own).ask('/seen', { method: 'POST' })).status, 200)
      assert.equal((await byHost(main, own).ask('/seen')).status, 200)
      for (const door of [byPath(other, own), byHost(other, own)]) assert.equal((await door.ask('/seen')).status, 403)
      assert.equal((await byPath(main, {}).ask('/seen')).status, 401)
    }),
    prove('a preview of a port on which nothing listens', async () => {
      const late = byPath(main, admin, 8001)
      const refused = await late.ask('/')
      assert.deepEqual([refused.status, (JSON.parse(refused.text) as { code: string }).code], [502, 'port_not_listening'])
      const page = await late.ask('/', { headers: { accept: 'text/html' } })
      assert.equal(page.status, 502)
      assert.match(page.text, /http-equiv="refresh"/)
      await ways['TCP port'].ask('/listen/8001', { method: 'POST' })
      assert.equal((await late.ask('/', { headers: { accept: 'text/html' } })).status, 200)
      const { body } = await daemon.request<{ items: Array<{ port: number }> }>('GET', `/v1/sandboxes/${main.id}/ports`)
      assert.deepEqual(body.items.map(listening => listening.port), [port, 8001])
    }),
    t.test('nothing of Berth is seen inside', async () => {
      const cookie = 'berth_preview=abc; own=1'
      const seen = await Promise.all(Object.values(ways).map(async door => (await door.ask('/seen?a=b&berth_ticket=secret', { headers: { cookie } })).text))
      for (const text of seen) {
        assert.doesNotMatch(text, /authorization|berth_|secret/)
        assert.equal((JSON.parse(text) as { url: string }).url, '/seen?a=b')
      }
      assert.match(seen[2] ?? '', /"cookie":"own=1"/)
    }),
    t.test('a browser comes in by ticket, and stays by cookie', async () => {
      const ticket = await ticketFor(main)
      const browser = byHost(main, {})
      const led = await browser.ask(`/seen?berth_ticket=${ticket}&x=1`)
      assert.deepEqual([led.status, led.headers.location], [302, '/seen?x=1'])
      const [cookie = ''] = led.headers['set-cookie']?.[0]?.split(';') ?? []
      const page = await browser.ask('/seen?x=1', { headers: { cookie } })
      assert.equal(page.status, 200)
      assert.doesNotMatch(page.text, /berth_/)
      assert.equal((await browser.ask(`/seen?berth_ticket=${ticket}`)).status, 401)
      assert.equal((await byHost(other, {}).ask('/seen', { headers: { cookie } })).status, 401)
      const byTicket = await browser.webSocket(`/live?berth_ticket=${await ticketFor(main)}`)
      await assertEcho(byTicket)
      byTicket.close()
    }),
    t.test('a sandbox is not idle while its preview is open', async () => {
      const watched = await byPath(idle).open('/steps')
      await delay(4000)
      assert.equal((await daemon.sandbox(idle.id)).status, 'running')
      watched.destroy()
      assert.equal((await daemon.wait(idle.id)).end?.reason, 'idle')
    }),
  ])

  await t.test('a stop ends what is open; a stopped sandbox has no ports, and a deleted one no tokens', async () => {
    const { body } = await daemon.request<{ token: string }>('POST', `/v1/sandboxes/${other.id}/tokens`, { name: 'own' })
    const own = byPath(other, { authorization: `Bearer ${body.token}` })
    const socket = await own.webSocket('/live')
    const closed = once(socket, 'close')
    await daemon.request('POST', `/v1/sandboxes/${other.id}/stop`, { force: true })
    await closed
    assert.equal((await own.ask('/seen')).status, 409)
    await daemon.remove(other.id)
    assert.equal((await own.ask('/seen')).status, 401)
    assert.equal((await byPath(other).ask('/seen')).status, 404)
  })
  await t.test('a daemon that is told to end does not wait for open previews, and the next one shows them', async () => {
    const watched = await ways['TCP port'].open('/steps')
    const socket = await ways['host name'].webSocket('/live')
    const ended = [assert.rejects(watched.toArray(), { code: 'ECONNRESET' }), once(socket, 'close')]
    assert.equal(await daemon.end(), 0)
    await Promise.all(ended)
    await daemon.start()
    assert.equal((await open({ ...tcp, port: Number(new URL(daemon.url).port) }, pathOf(main), admin).ask('/seen')).status, 200)
  })
})
