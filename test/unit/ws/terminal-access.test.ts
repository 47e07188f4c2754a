import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { buildAttachRig } from './attach-rig.ts'

const anonymous = { headers: {} }

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
  const ofLogs = await rig.ticketFor({ scope: 'logs', terminalId: undefined }, rig.asReader)
  assert.equal(await rig.codeOf(`?ticket=${ofLogs.ticket}`, anonymous), '401 ticket_invalid')
  assert.equal(await rig.codeOf(`?berth_ticket=${(await rig.ticketFor({})).ticket}`, anonymous), '401 token_missing')
})

test('a ticket opens no more than the token that made it, and no longer', async t => {
  const rig = await buildAttachRig(t)
  const codeBy = async (body: object, headers: { authorization: string }) => {
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
  const headers = [
    'Host: x', `Authorization: Bearer ${token}`, 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 7', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  ]
  socket.write(`GET ${path} HTTP/1.1\r\n${headers.join('\r\n')}\r\n\r\n`)
  const [answer] = await once(socket, 'data') as [Buffer]
  socket.destroy()
  return answer.toString()
}
