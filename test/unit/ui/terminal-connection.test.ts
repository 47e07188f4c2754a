import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { AttachEvent, TerminalRole } from '../../../src/schemas/terminal.ts'
import { ApiClient } from '../../../src/ui/api/api-client.ts'
import { TerminalConnection, type TerminalSink } from '../../../src/ui/api/terminal-connection.ts'

class FakeSocket extends EventTarget {
  static made: FakeSocket[] = []
  readonly url: URL
  readonly protocols: string[] | undefined
  readonly sent: (string | Uint8Array)[] = []
  binaryType = ''

  constructor (url: string, protocols?: string[]) {
    super()
    this.url = new URL(url)
    this.protocols = protocols
    FakeSocket.made.push(this)
  }

  send (data: string | Uint8Array): void { this.sent.push(data) }
  close (code = 1005, reason = ''): void { this.dispatchEvent(Object.assign(new Event('close'), { code, reason })) }
  tell (event: AttachEvent): void { this.dispatchEvent(Object.assign(new Event('message'), { data: JSON.stringify(event) })) }
  output (text: string): void { this.dispatchEvent(Object.assign(new Event('message'), { data: new TextEncoder().encode(text).buffer })) }
  open (): void { this.dispatchEvent(new Event('open')) }
}

interface Settings {
  role?: TerminalRole
  since?: number
  isReader?: boolean
  status?: () => number
}

function build ({ role = 'write', since, isReader = false, status = () => 200 }: Settings = {}) {
  FakeSocket.made = []
  const shown: string[] = []
  const waiting: (() => void)[] = []
  const terminal = { output: { oldestOffset: 0, endOffset: 10 }, status: 'running' }
  const client = new ApiClient({
    token: 'secret',
    fetch: async input => {
      if (status() !== 200) return Response.json({ code: 'terminal_not_found', message: 'there is no such terminal' }, { status: status() })
      if (!String(input).startsWith('/v1/tickets')) return Response.json(terminal)
      return isReader ? Response.json({ code: 'scope_insufficient', message: 'no' }, { status: 403 }) : Response.json({ ticket: 'once', expiresAt: '' })
    },
  })
  const sink: TerminalSink = {
    paint: ({ cols, rows }, data) => shown.push(`paint ${cols}x${rows} ${data}`),
    write: (bytes, isReplay, done) => {
      shown.push(`${isReplay ? 'replay' : 'live'} ${new TextDecoder().decode(bytes)}`)
      waiting.push(done)
    },
    resize: ({ cols, rows }) => shown.push(`size ${cols}x${rows}`),
    skip: bytes => shown.push(`skip ${bytes}`),
    wantedSize: () => ({ cols: 100, rows: 30 }),
  }
  const connection = new TerminalConnection({ client, sandboxId: 'sbx_1', terminalId: 'trm_1', role, sink, since, base: 'ws://berth', WebSocket: FakeSocket as unknown as typeof WebSocket })
  return { connection, terminal, shown, waiting, running: connection.run() }
}

async function socket (index: number): Promise<FakeSocket> {
  for (let turn = 0; turn < 1000 && FakeSocket.made.length <= index; turn++) await new Promise(resolve => setTimeout(resolve, 5))
  return FakeSocket.made[index]!
}

const ready = (offset: number): AttachEvent => ({ type: 'ready', offset, role: 'write', status: 'running', cols: 100, rows: 30 })

test('it comes back at the byte where it was cut off, with a ticket in the place of the token', async () => {
  const { connection, terminal, shown, waiting, running } = build()
  const first = await socket(0)
  assert.deepEqual(Object.fromEntries(first.url.searchParams), { role: 'write', cols: '100', rows: '30', ticket: 'once' })
  assert.equal(first.protocols, undefined)
  first.open()
  first.tell(ready(4))
  first.tell({ type: 'screen', offset: 4, data: 'past', cols: 100, rows: 30 })
  first.output('replay')
  first.output('live')
  assert.equal(connection.shownOffset, 4)
  for (const done of waiting) done()
  assert.equal(connection.shownOffset, 14)
  terminal.output.endOffset = 20
  first.close(1006)
  connection.retryNow()
  const second = await socket(1)
  assert.equal(second.url.searchParams.get('since'), '14')
  second.open()
  second.tell({ type: 'exit', reason: 'exited', exitCode: 0 })
  second.close(1000)
  await running
  assert.deepEqual([connection.state.value, connection.end.value?.exitCode], ['ended', 0])
  assert.deepEqual(shown, ['size 100x30', 'paint 100x30 past', 'replay replay', 'live live'])
})

test('a place behind the end is none: the present is painted', async () => {
  const { connection } = build({ since: 11 })
  assert.equal((await socket(0)).url.searchParams.get('since'), null)
  connection.close()
})

test('what is typed goes out while it is attached, and nowhere else', async () => {
  const { connection } = build()
  const bytes = new TextEncoder().encode('x')
  assert.equal(connection.send(bytes), false)
  const first = await socket(0)
  first.open()
  first.tell(ready(0))
  assert.equal(connection.send(bytes), true)
  connection.resize({ cols: 9, rows: 8 })
  assert.deepEqual(first.sent, [bytes, '{"type":"resize","cols":9,"rows":8}'])
  first.close(1006)
  await new Promise(resolve => setTimeout(resolve, 0))
  assert.deepEqual([connection.state.value, connection.send(bytes)], ['lost', false])
  connection.close()
})

test('who may only read comes with the subprotocol, gives no size, and sends nothing', async () => {
  const { connection } = build({ role: 'read', isReader: true })
  const first = await socket(0)
  assert.deepEqual([Object.fromEntries(first.url.searchParams), first.protocols], [{ role: 'read' }, ['berth.v1', 'bearer.secret']])
  first.tell(ready(0))
  assert.equal(connection.send(new Uint8Array(1)), false)
  connection.resize({ cols: 1, rows: 1 })
  assert.deepEqual(first.sent, [])
  connection.close()
})

test('one that is not there is said, and not asked for again', async () => {
  const { connection, running } = build({ status: () => 404 })
  await running
  assert.deepEqual([connection.state.value, connection.message.value, FakeSocket.made.length], ['refused', 'there is no such terminal', 0])
})

test('a browser that falls behind lets go, and comes back when it has caught up', async () => {
  const { connection, waiting } = build()
  const first = await socket(0)
  first.open()
  first.tell(ready(0))
  for (let turn = 0; turn < 9; turn++) first.output('x'.repeat(1024 * 1024))
  connection.retryNow()
  await new Promise(resolve => setTimeout(resolve, 400))
  assert.equal(FakeSocket.made.length, 1)
  for (const done of waiting) done()
  const second = await socket(1)
  assert.ok(second)
  connection.close()
})
