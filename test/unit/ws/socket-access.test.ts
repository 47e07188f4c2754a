import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { test, type TestContext } from 'node:test'
import { buildSocketRig, untilClosed, type Ask } from '../../support/socket-rig.ts'

const exec = `exe_${'e'.repeat(20)}`

async function build (t: TestContext) {
  const rig = await buildSocketRig(t)
  for (const id of [rig.sandbox.id, rig.other.id, rig.task.id, exec]) rig.makeLog(id).write(['hello']).end(0)
  const isRead = async (path: string, asked: Ask) => (await rig.tail(path, asked)).messages.at(-1)?.type === 'end'
  const codeOf = async (path: string, asked: Ask) => {
    const { status, body } = await rig.refused(path, asked)
    return `${status} ${body.code}`
  }
  return { ...rig, isRead, codeOf, pathOfExec: `/v1/sandboxes/${rig.sandbox.id}/execs/${exec}/logs/ws`, pathOfTask: `/v1/tasks/${rig.task.id}/logs/ws` }
}

test('a plain GET is told that the path is a WebSocket, with the manners of every answer', async t => {
  const rig = await build(t)
  const answer = await fetch(`http://127.0.0.1:${rig.port}${rig.pathTo()}`, { headers: { 'x-request-id': 'mine' } })
  assert.equal(answer.status, 426)
  assert.equal(answer.headers.get('upgrade'), 'websocket')
  assert.equal(answer.headers.get('x-request-id'), 'mine')
  const body = await answer.json() as Record<string, string>
  assert.deepEqual([body.code, body.kind, body.requestId], ['upgrade_required', 'invalid_argument', 'mine'])
  const head = await fetch(`http://127.0.0.1:${rig.port}${rig.pathTo()}`, { method: 'HEAD' })
  assert.notEqual(head.status, 200)
})

test('an Authorization header, a subprotocol, a ticket and root\'s socket let in; nothing else does', async t => {
  const rig = await build(t)
  const path = rig.pathTo()
  assert.equal(await rig.isRead(path, { headers: rig.bearer(rig.admin) }), true)
  for (const headers of [{}, { authorization: 'Basic YTpi' }] as Array<Record<string, string>>) assert.equal(await rig.isRead(path, { headers, isRoot: true }), true)
  const socket = rig.open(path, { headers: {}, protocols: ['berth.v1', `bearer.${rig.admin}`] })
  const [upgrade] = await once(socket, 'upgrade') as [{ headers: Record<string, string> }]
  assert.equal((await untilClosed(socket)).code, 1000)
  assert.equal(socket.protocol, 'berth.v1')
  assert.ok(upgrade.headers['x-request-id'])
  assert.equal(JSON.stringify(upgrade.headers).includes(rig.admin), false)
  const none = await rig.refused(path, { headers: {} })
  assert.deepEqual([none.status, none.body.code], [401, 'token_missing'])
  assert.equal(none.headers['www-authenticate'], 'Bearer realm="berth"')
  assert.equal(none.headers['x-request-id'], none.body.requestId)
  assert.equal(await rig.codeOf(path, { headers: rig.bearer('berth_wrong') }), '401 token_invalid')
  assert.equal(await rig.codeOf(path, { headers: {}, protocols: ['berth.v1', 'bearer.berth_wrong'] }), '401 token_invalid')
  assert.equal(await rig.codeOf(path, { headers: { authorization: 'Basic YTpi' } }), '401 token_invalid')
  for (const name of ['token', 'access_token', 'bearer', 'authorization']) {
    assert.equal(await rig.codeOf(rig.pathTo(`?${name}=${rig.admin}`), { headers: {} }), '401 token_missing')
  }
  assert.equal(await rig.codeOf(rig.pathTo(`?ticket=${rig.admin}`), { headers: {} }), '401 ticket_invalid')
})

test('subprotocols without the one there is are refused, in words', async t => {
  const rig = await build(t)
  assert.equal(await rig.codeOf(rig.pathTo(), { protocols: ['graphql-ws'] }), '400 subprotocol_unknown')
  assert.equal(await rig.codeOf(rig.pathTo(), { headers: {}, protocols: [`bearer.${rig.admin}`] }), '400 subprotocol_unknown')
})

test('a page of another origin gets nowhere by what a browser sends of itself, and a token counts wherever it comes from', async t => {
  const rig = await build(t)
  const origin = 'https://evil.example'
  const cookies = ['berth_preview', 'token', 'authorization'].map(name => `${name}=${rig.admin}`).join('; ')
  assert.equal(await rig.codeOf(rig.pathTo(), { headers: { origin, cookie: cookies } }), '401 token_missing')
  assert.equal(await rig.isRead(rig.pathTo(), { headers: { origin }, protocols: ['berth.v1', `bearer.${rig.admin}`] }), true)
})

test('scopes count as they do over REST', async t => {
  const rig = await build(t)
  for (const path of [rig.pathTo(), rig.pathOfExec, rig.pathOfTask]) assert.equal(await rig.isRead(path, { headers: rig.asReader }), true)
  for (const path of [rig.pathTo(), rig.pathOfExec]) {
    assert.equal(await rig.isRead(path, { headers: rig.asSandbox }), true)
    assert.equal(await rig.codeOf(path, { headers: rig.asOther }), '403 scope_insufficient')
  }
  assert.equal(await rig.codeOf(rig.pathOfTask, { headers: rig.asSandbox }), '403 scope_insufficient')
})

test('a ticket opens the logs that it was made for, once', async t => {
  const rig = await build(t)
  const make = async (body: object, headers = rig.bearer(rig.admin)) => {
    const answer = await rig.app.inject({ method: 'POST', url: '/v1/tickets', headers, payload: body })
    return { status: answer.statusCode, ...answer.json() as { ticket: string, path: string, code: string, message: string } }
  }
  const ofSandbox = { scope: 'logs', sandboxId: rig.sandbox.id }
  const ofTask = { scope: 'logs', taskId: rig.task.id }
  const anonymous = { headers: {} }
  const { path } = await make(ofSandbox, rig.asSandbox)
  assert.match(path, new RegExp(`^/v1/sandboxes/${rig.sandbox.id}/logs/ws\\?ticket=.{43}$`))
  // A plain request does not use it up.
  assert.equal((await fetch(`http://127.0.0.1:${rig.port}${path}`)).status, 426)
  assert.equal(await rig.isRead(path, anonymous), true)
  assert.equal(await rig.codeOf(path, anonymous), '401 ticket_invalid')
  assert.equal(await rig.isRead((await make(ofTask)).path, anonymous), true)
  assert.equal(await rig.isRead(`${rig.pathOfExec}?ticket=${(await make(ofSandbox)).ticket}`, anonymous), true)
  for (const [body, elsewhere] of [
    [ofSandbox, rig.pathOfTask],
    [ofTask, rig.pathTo()],
    [ofSandbox, `/v1/sandboxes/${rig.other.id}/logs/ws`],
    [{ scope: 'preview', sandboxId: rig.sandbox.id }, rig.pathTo()],
  ] as const) {
    const { ticket } = await make(body)
    assert.equal(await rig.codeOf(`${elsewhere}?ticket=${ticket}`, anonymous), '401 ticket_invalid')
  }
  assert.equal((await make(ofTask, rig.asSandbox)).code, 'scope_insufficient')
  assert.equal((await make(ofSandbox, rig.asOther)).code, 'scope_insufficient')
  assert.equal((await make({ scope: 'logs', taskId: `tsk_${'z'.repeat(20)}` })).code, 'task_not_found')
  assert.equal((await make({ scope: 'logs', sandboxId: `sbx_${'z'.repeat(20)}` })).code, 'sandbox_not_found')
})

test('which fields belong to which scope of a ticket is said where they do not', async t => {
  const rig = await build(t)
  const [sandboxId, taskId] = [rig.sandbox.id, rig.task.id]
  for (const [body, code, words] of [
    [{ scope: 'preview' }, 'missing_field', /^sandboxId is required$/],
    [{ scope: 'preview', sandboxId, taskId }, 'invalid_field', /^taskId must not be given here/],
    [{ scope: 'preview', taskId }, 'invalid_field', /^taskId must not be given here/],
    [{ scope: 'logs' }, 'missing_field', /^sandboxId or taskId is required/],
    [{ scope: 'logs', sandboxId, taskId }, 'invalid_field', /of a sandbox or of a task/],
    [{ scope: 'logs', sandboxId, role: 'read' }, 'invalid_field', /^role must not be given here: a ticket of scope logs takes sandboxId, taskId and ttlMs$/],
    [{ scope: 'terminal', sandboxId }, 'missing_field', /^terminalId is required$/],
    [{ scope: 'terminal', terminalId: `trm_${'a'.repeat(20)}` }, 'missing_field', /^sandboxId is required$/],
    [{ scope: 'terminal', sandboxId, taskId }, 'invalid_field', /^taskId must not be given here/],
    [{ scope: 'logs', sandboxId, ttlMs: 60_001 }, 'invalid_field', /^ttlMs must be at most 60000$/],
    [{ scope: 'logs', sandboxId, ttlMs: 999 }, 'invalid_field', /^ttlMs must be at least 1000$/],
    [{ purpose: 'logs', sandboxId }, 'missing_field', /^scope is required$/],
    [{ scope: 'logs', sandboxId, port: 80 }, 'invalid_field', /^port must not be given here/],
    [{ scope: 'shell', sandboxId }, 'invalid_field', /must be one of preview, logs, terminal/],
  ] as const) {
    const answer = await rig.app.inject({ method: 'POST', url: '/v1/tickets', headers: rig.bearer(rig.admin), payload: body })
    assert.equal(answer.statusCode, 400)
    assert.equal(answer.json<{ code: string }>().code, code)
    assert.match(answer.json<{ message: string }>().message, words)
  }
})

test('what is wrong with the question is said before the upgrade, in REST\'s words', async t => {
  const rig = await build(t)
  for (const [query, code] of [
    ['?tail=many', '400 invalid_parameter'],
    ['?tail=-1', '400 invalid_parameter'],
    ['?tial=3', '400 unknown_parameter'],
    ['?stream=stdin', '400 invalid_parameter'],
    ['?attempt=1', '400 unknown_parameter'],
    ['?cursor=here', '400 invalid_cursor'],
  ] as const) {
    assert.equal(await rig.codeOf(rig.pathTo(query), {}), code, query)
  }
  assert.equal(await rig.codeOf(`/v1/tasks/tsk_${'z'.repeat(20)}/logs/ws`, {}), '404 task_not_found')
  assert.equal(await rig.codeOf('/v1/tasks/7/logs/ws', {}), '404 task_not_found')
  assert.equal(await rig.codeOf(`/v1/sandboxes/sbx_${'z'.repeat(20)}/logs/ws`, {}), '404 sandbox_not_found')
  assert.equal(await rig.codeOf('/v1/nothing/ws', {}), '404 route_not_found')
})

test('upgrades that are no WebSocket\'s are answered, and leave nothing behind', async t => {
  const rig = await build(t)
  const authorization = `Authorization: Bearer ${rig.admin}\r\n`
  const good = `${authorization}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n`
  for (const [headers, expected] of [
    [good.replace('13', '7'), /^HTTP\/1\.1 400 .*"invalid_upgrade"/s],
    [good.replace(/Sec-WebSocket-Key.*\r\n/, ''), /^HTTP\/1\.1 400 .*"invalid_upgrade"/s],
    [`${good}Sec-WebSocket-Extensions: ,,;=\r\n`, /^HTTP\/1\.1 400 .*"invalid_upgrade"/s],
    [`${good}Content-Length: 5\r\n`, /^HTTP\/1\.1 400 .*"upgrade_with_body"/s],
    [good.replace('Upgrade: websocket', 'Upgrade: h2c'), /^HTTP\/1\.1 426 .*"upgrade_required"/s],
  ] as const) {
    assert.match(await raw(rig.port, `GET ${rig.pathTo()} HTTP/1.1\r\nHost: x\r\n${headers}\r\n`), expected)
  }
  // Elsewhere a wish to upgrade is no reason to refuse.
  assert.match(await raw(rig.port, `GET /healthz HTTP/1.1\r\nHost: x\r\n${good}\r\n`), /^HTTP\/1\.1 200 /)
})

/** The first part of the answer to a request that is sent as it stands. */
async function raw (port: number, head: string): Promise<string> {
  const socket = net.connect(port, '127.0.0.1')
  socket.write(head)
  const [answer] = await once(socket, 'data') as [Buffer]
  socket.destroy()
  return answer.toString()
}
