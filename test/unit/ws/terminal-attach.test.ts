import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { buildAttachRig, outputOf, until } from './attach-rig.ts'

const anonymous = { headers: {} }

test('output comes as the bytes it is, events as JSON, in their order; exit closes with 1000', async t => {
  const rig = await buildAttachRig(t)
  const { attachment, frames, closed } = await rig.attach('?since=5')
  assert.deepEqual(attachment.options, { role: 'write', since: 5, cols: undefined, rows: undefined })
  const ready = { type: 'ready', offset: 5, role: 'write', status: 'running', cols: 80, rows: 24 } as const
  const bytes = randomBytes(300_000)
  await attachment.viewer.sendEvent(ready)
  await attachment.viewer.sendOutput(bytes)
  await attachment.viewer.sendEvent({ type: 'resize', cols: 100, rows: 30 })
  await attachment.viewer.sendOutput(Buffer.from([0xff, 0x00]))
  await attachment.end({ type: 'exit', reason: 'exited', exitCode: 3 })
  assert.deepEqual(await closed, { code: 1000, reason: '' })
  assert.deepEqual(frames, [ready, bytes, { type: 'resize', cols: 100, rows: 30 }, Buffer.from([0xff, 0x00]), { type: 'exit', reason: 'exited', exitCode: 3 }])
})

test('input and sizes reach the terminal in their order', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment } = await rig.attach('?cols=120&rows=40')
  assert.deepEqual(attachment.options, { role: 'write', since: undefined, cols: 120, rows: 40 })
  const sent = [Buffer.from('ls\r'), Buffer.from([0x03]), randomBytes(500_000)]
  for (const bytes of sent) socket.send(bytes)
  socket.send(JSON.stringify({ type: 'resize', cols: 90, rows: 20 }))
  await until(() => attachment.sizes.length > 0)
  assert.deepEqual(attachment.sizes, [[90, 20]])
  assert.deepEqual(attachment.written, sent)
})

test('a command that is none is told so, and the socket stays open', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, frames, hasSeen } = await rig.attach()
  const bad = [
    'resize', '', 'null', '[]', '{}', '{"type":"resize"}', '{"type":"resize","cols":80}', '{"type":"resize","cols":0,"rows":1}', '{"type":"resize","cols":1001,"rows":1}',
    '{"type":"resize","cols":"80","rows":24}', '{"type":"resize","cols":80.5,"rows":24}', '{"type":"resize","cols":80,"rows":24,"force":true}', '{"type":"input","data":"x"}',
    `{"type":"resize","cols":80,"rows":24,"x":"${'y'.repeat(100_000)}"}`,
  ]
  for (const text of bad) socket.send(text)
  socket.send('{"type":"resize","cols":81,"rows":25}')
  await hasSeen(bad.length)
  await until(() => attachment.sizes.length > 0)
  assert.deepEqual(attachment.sizes, [[81, 25]])
  for (const frame of frames) assert.equal('code' in frame && frame.code, 'invalid_command')
  assert.deepEqual(attachment.written, [])
})

test('what the terminal refuses is told; what goes wrong inside closes, and tells nothing', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, frames, hasSeen, closed } = await rig.attach()
  attachment.taking = async () => { throw new BerthError('conflict', 'terminal_ended', 'it has ended') }
  socket.send(Buffer.from('x'))
  await hasSeen(1)
  assert.deepEqual(frames, [{ type: 'error', code: 'terminal_ended', message: 'it has ended' }])
  attachment.taking = async () => { throw new Error('EIO: /var/lib/secret') }
  socket.send(Buffer.from('x'))
  assert.deepEqual(await closed, { code: 1011, reason: 'internal' })
  assert.doesNotMatch(JSON.stringify(frames), /secret/)
  const broken = await rig.attach()
  await broken.attachment.end(new Error('EIO: /var/lib/secret'))
  assert.deepEqual(await broken.closed, { code: 1011, reason: 'internal' })
  assert.equal(attachment.signal?.aborted, true)
})

test('too large a message closes with 1009, one of a megabyte does not', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, closed } = await rig.attach()
  const whole = Buffer.alloc(1024 ** 2, 'x')
  socket.send(whole)
  await until(() => attachment.written.length > 0)
  assert.ok(attachment.written[0]!.equals(whole))
  socket.send(Buffer.alloc(1024 ** 2 + 1))
  assert.equal((await closed).code, 1009)
  await attachment.over
  assert.equal(attachment.written.length, 1)
})

test('a client that only looks is told so once in a while, whatever it sends, and nothing of it arrives', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, frames, closed } = await rig.attach('?role=read')
  assert.equal(attachment.options.role, 'read')
  for (let n = 0; n < 1000; n++) {
    socket.send(Buffer.from('rm -rf /\r'))
    socket.send('{"type":"resize","cols":1,"rows":1}')
  }
  socket.ping()
  await once(socket, 'pong')
  await attachment.end()
  await closed
  const notices = frames.filter(frame => 'code' in frame && frame.code === 'read_only')
  assert.ok(notices.length > 0 && notices.length < 100, `${notices.length} notices`)
  assert.equal(frames.length, notices.length + 1)
  assert.deepEqual([attachment.written, attachment.sizes], [[], []])
})

test('while the terminal takes no input nothing more is read; none is lost, and the client is not given up', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, closed, hasSeen } = await rig.attach()
  const gate = Promise.withResolvers<void>()
  attachment.taking = () => gate.promise
  const piece = randomBytes(64 * 1024)
  const pieces = 512
  for (let n = 0; n < pieces; n++) socket.send(piece)
  await until(() => attachment.written.length > 0)
  // Output comes all the same.
  await attachment.viewer.sendOutput(Buffer.from('echo'))
  await hasSeen(1)
  await settled(() => socket.bufferedAmount)
  assert.equal(attachment.written.length, 1)
  // What is in the kernel's buffers is gone from the client's; the most of it stays there.
  assert.ok(socket.bufferedAmount > pieces * piece.length / 2, `${socket.bufferedAmount} bytes wait at the client`)
  gate.resolve()
  await until(() => attachment.written.length === pieces)
  assert.ok(attachment.written.every(bytes => bytes.equals(piece)))
  await attachment.end()
  assert.equal((await closed).code, 1000)
})

test('an end is heard of though input waits', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, closed } = await rig.attach()
  attachment.taking = () => new Promise(() => {})
  for (let n = 0; n < 3; n++) socket.send(Buffer.from('x'))
  await until(() => attachment.written.length > 0)
  await attachment.end()
  assert.equal((await closed).code, 1000)
  assert.equal(attachment.written.length, 1)
  const other = await rig.attach()
  other.attachment.taking = () => new Promise(() => {})
  other.socket.send(Buffer.from('x'))
  await until(() => other.attachment.written.length > 0)
  other.socket.terminate()
  await other.attachment.over
})

test('a client that takes nothing holds a little of the output, and is cut off', async t => {
  const rig = await buildAttachRig(t, { followerStallMs: 300 })
  const { socket, attachment, closed } = await rig.attach()
  socket.pause()
  const chunk = Buffer.alloc(64 * 1024)
  let sent = 0
  while (!attachment.signal!.aborted) {
    await attachment.viewer.sendOutput(chunk)
    sent++
  }
  // The kernel's buffers take some megabytes.
  assert.ok(sent < 512, `${sent} chunks were sent`)
  await attachment.over
  socket.resume()
  await closed
})

test('frames go undeflated, unless the client asks for more than browsers do unasked', async t => {
  const rig = await buildAttachRig(t)
  const text = Buffer.from('the same again\r\n'.repeat(10_000))
  const receivedBy = async (query: string) => {
    const upgraded = Promise.withResolvers<Socket>()
    const { socket, attachment, frames, closed } = await rig.attach(query, { perMessageDeflate: true, finishRequest: request => request.once('upgrade', ({ socket }) => upgraded.resolve(socket)).end() })
    await attachment.viewer.sendOutput(text)
    const small = Buffer.from('x'.repeat(1000))
    await attachment.viewer.sendOutput(small)
    await attachment.end()
    await closed
    assert.deepEqual(outputOf(frames), Buffer.concat([text, small]))
    const { bytesRead } = await upgraded.promise
    return { bytesRead, extensions: socket.extensions }
  }
  const plain = await receivedBy('')
  assert.equal(plain.extensions, '')
  assert.ok(plain.bytesRead > text.length)
  const deflated = await receivedBy('?deflate=true')
  assert.match(deflated.extensions, /permessage-deflate/)
  // The small frame goes as it is.
  assert.ok(deflated.bytesRead > 1000 && deflated.bytesRead < text.length / 2, `${deflated.bytesRead}`)
})

test('a daemon that ends says so, and lets the terminals go', async t => {
  const rig = await buildAttachRig(t)
  const { attachment, closed, frames } = await rig.attach()
  await rig.close()
  assert.deepEqual(await closed, { code: 1001, reason: 'host_stopping' })
  await attachment.over
  assert.deepEqual(frames, [])
})

test('what the terminal refuses, and what is wrong with the question, is said before the upgrade', async t => {
  const rig = await buildAttachRig(t)
  for (const [query, code] of [
    ['?since=-1', '400 invalid_parameter'],
    ['?since=x', '400 invalid_parameter'],
    ['?role=admin', '400 invalid_parameter'],
    ['?cols=80', '400 invalid_parameter'],
    ['?cols=80&rows=1001', '400 invalid_parameter'],
    ['?role=read&cols=80&rows=24', '400 invalid_parameter'],
    ['?deflate=maybe', '400 invalid_parameter'],
    ['?token=x', '400 unknown_parameter'],
  ] as const) assert.equal(await rig.codeOf(query), code, query)
  const nothing = `trm_${'z'.repeat(20)}`
  assert.equal(await rig.codeOf(rig.path().replace(rig.terminal.id, nothing)), '404 terminal_not_found')
  assert.equal(await rig.codeOf(rig.path().replace(rig.terminal.id, '7')), '404 terminal_not_found')
  const plain = await fetch(`http://127.0.0.1:${rig.port}${rig.path()}`)
  const body = await plain.json() as { code: string, message: string }
  assert.deepEqual([plain.status, body.code], [426, 'upgrade_required'])
  assert.match(body.message, /the path before \/attach answers plain requests$/)
  assert.equal(rig.terminals.attachments.length, 0)
})

test('an upgrade that fails after the terminal was attached to lets it go', async t => {
  const rig = await buildAttachRig(t)
  const answer = await fetchUpgrade(rig.port, rig.path(), rig.admin)
  assert.match(answer, /^HTTP\/1\.1 400 .*"invalid_upgrade"/s)
  const [attachment] = rig.terminals.attachments
  await attachment!.over
  assert.equal(attachment!.signal?.aborted, true)
})

test('tokens: those that only read look, one of the sandbox types, one of another gets nowhere', async t => {
  const rig = await buildAttachRig(t)
  const roleOf = async (query: string, headers: Record<string, string>) => (await rig.attach(query, { headers })).attachment.options.role
  assert.equal(await roleOf('', rig.asReader), 'read')
  assert.equal(await roleOf('?role=read', rig.asReader), 'read')
  assert.equal(await rig.codeOf('?role=write', { headers: rig.asReader }), '403 scope_insufficient')
  assert.equal(await rig.codeOf('?cols=80&rows=24', { headers: rig.asReader }), '400 invalid_parameter')
  assert.equal(await roleOf('', rig.asSandbox), 'write')
  assert.equal(await rig.codeOf('', { headers: rig.asOther }), '403 scope_insufficient')
  assert.equal(await rig.codeOf('', anonymous), '401 token_missing')
  assert.equal((await rig.attach('', { headers: {}, isRoot: true })).attachment.options.role, 'write')
  assert.equal((await rig.attach('', { headers: {}, protocols: ['berth.v1', `bearer.${rig.admin}`] })).attachment.options.role, 'write')
})

test('a ticket opens its terminal, once, for what it was made for', async t => {
  const rig = await buildAttachRig(t)
  const second = await rig.terminals.create(rig.sandbox.id, { cols: 80, rows: 24 }, {})
  const write = await rig.ticketFor({ role: 'write' }, rig.asSandbox)
  assert.equal(write.path, rig.path(`?ticket=${write.ticket}`))
  assert.equal((await rig.attach(write.path, anonymous)).attachment.options.role, 'write')
  assert.equal(await rig.codeOf(write.path, anonymous), '401 ticket_invalid')
  const looking = await rig.ticketFor({ role: 'write' })
  assert.equal((await rig.attach(`${looking.path}&role=read`, anonymous)).attachment.options.role, 'read')
  for (const body of [{}, { role: 'read' }]) {
    assert.equal((await rig.attach((await rig.ticketFor(body)).path, anonymous)).attachment.options.role, 'read')
    const misused = await rig.ticketFor(body)
    assert.equal(await rig.codeOf(`${misused.path}&role=write`, anonymous), '403 scope_insufficient')
    assert.equal(await rig.codeOf(misused.path, anonymous), '401 ticket_invalid', 'it is used up')
  }
  for (const elsewhere of [rig.path().replace(rig.terminal.id, second.id), rig.path().replace(rig.sandbox.id, rig.other.id), rig.pathTo()]) {
    assert.equal(await rig.codeOf(`${elsewhere}?ticket=${(await rig.ticketFor({ role: 'write' })).ticket}`, anonymous), '401 ticket_invalid')
  }
  const ofLogs = (await rig.app.inject({ method: 'POST', url: '/v1/tickets', headers: rig.asReader, payload: { scope: 'logs', sandboxId: rig.sandbox.id } })).json<{ ticket: string }>()
  assert.equal(await rig.codeOf(`?ticket=${ofLogs.ticket}`, anonymous), '401 ticket_invalid')
  assert.equal(await rig.codeOf(`?berth_ticket=${(await rig.ticketFor({})).ticket}`, anonymous), '401 token_missing')
})

test('a ticket opens no more than the token that made it, and no longer', async t => {
  const rig = await buildAttachRig(t)
  const codeBy = async (body: object, headers: Record<string, string>) => {
    const { status, code } = await rig.ticketFor(body, headers)
    return code ?? status
  }
  assert.equal(await codeBy({}, rig.asReader), 201)
  assert.equal(await codeBy({ role: 'read' }, rig.asReader), 201)
  assert.equal(await codeBy({ role: 'write' }, rig.asReader), 'scope_insufficient')
  assert.equal(await codeBy({ scope: 'preview', terminalId: undefined }, rig.asReader), 'scope_insufficient')
  assert.equal(await codeBy({ scope: 'logs', terminalId: undefined }, rig.asReader), 201)
  assert.equal(await codeBy({}, rig.asOther), 'scope_insufficient')
  assert.equal(await codeBy({ terminalId: `trm_${'z'.repeat(20)}` }, rig.asSandbox), 'terminal_not_found')
  assert.equal(await codeBy({ sandboxId: rig.other.id }, rig.bearer(rig.admin)), 'terminal_not_found')
  assert.equal(await codeBy({ sandboxId: `sbx_${'z'.repeat(20)}` }, rig.bearer(rig.admin)), 'sandbox_not_found')
  const before = Date.now()
  const lives = await Promise.all([{}, { ttlMs: 60_000 }, { ttlMs: 1000 }].map(async body => Date.parse((await rig.ticketFor(body)).expiresAt) - before))
  for (const [n, ttlMs] of [30_000, 60_000, 1000].entries()) assert.ok(lives[n]! >= ttlMs, `${lives[n]}`)
  assert.ok(lives[2]! < lives[0]! && lives[0]! < lives[1]!)
})

/** The answer to an upgrade of a version that there is not. */
async function fetchUpgrade (port: number, path: string, token: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`)
  const [answer] = await once(socket, 'data') as [Buffer]
  socket.destroy()
  return answer.toString()
}

/** Until a number stays as it is for a while. */
async function settled (read: () => number): Promise<void> {
  let last = NaN
  for (let same = 0; same < 10; same = read() === last ? same + 1 : 0) {
    last = read()
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}
