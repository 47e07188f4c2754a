import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { buildSocketRig, untilClosed } from '../../support/socket-rig.ts'

test('a daemon that ends tells its sockets, at every door, and then ends', async t => {
  const rig = await buildSocketRig(t)
  rig.makeLog(rig.sandbox.id).write(['hello'])
  const sockets = [rig.open(rig.pathTo()), rig.open(rig.pathTo(), { headers: {}, isRoot: true })]
  const closed = sockets.map(untilClosed)
  await Promise.all(sockets.map(async socket => await once(socket, 'message')))
  await rig.close()
  for (const { code, reason, messages } of await Promise.all(closed)) {
    assert.deepEqual([code, reason], [1001, 'host_stopping'])
    assert.deepEqual(messages.map(({ type }) => type), ['output'])
  }
})

test('a daemon ends though a follower has stopped reading', async t => {
  const rig = await buildSocketRig(t)
  rig.makeLog(rig.sandbox.id).write(Array.from({ length: 8192 }, () => 'x'.repeat(4000))).end(0)
  const socket = rig.open(rig.pathTo())
  await once(socket, 'open')
  socket.pause()
  await rig.close()
  assert.equal(rig.reader.watchedCount, 0)
})

test('requests count as under way for as long as their socket is open, refused ones for no longer than any', async t => {
  const rig = await buildSocketRig(t)
  rig.makeLog(rig.sandbox.id).write(['hello'])
  const gauge = async () => {
    const { body } = await rig.app.inject({ url: '/metrics', headers: rig.bearer(rig.admin) })
    // The one that asks is under way itself.
    return Number(/^berth_http_requests_open (\d+)$/m.exec(body)?.[1]) - 1
  }
  await rig.refused(rig.pathTo('?tail=x'))
  await until(async () => await gauge() === 0)
  const socket = rig.open(rig.pathTo())
  await once(socket, 'message')
  assert.equal(await gauge(), 1)
  socket.close()
  await until(async () => await gauge() === 0)
  assert.equal(rig.reader.watchedCount, 0)
})

async function until (condition: () => Promise<boolean>): Promise<void> {
  while (!await condition()) await new Promise(resolve => setTimeout(resolve, 10))
}

test('a socket ends with the token that it came in by, or that made its ticket', async t => {
  const rig = await buildSocketRig(t)
  rig.makeLog(rig.sandbox.id).write(['hello'])
  const { id, token } = rig.tokens.create({ name: 'own', scope: 'sandbox', sandboxId: rig.sandbox.id })
  const { ticket } = rig.tickets.create({ scope: 'logs', sandboxId: rig.sandbox.id, tokenId: id })
  const sockets = [rig.open(rig.pathTo(), { headers: rig.bearer(token) }), rig.open(rig.pathTo(`?ticket=${ticket}`), { headers: {} })]
  const staying = rig.open(rig.pathTo())
  const closed = sockets.map(untilClosed)
  await Promise.all([...sockets, staying].map(async socket => await once(socket, 'message')))
  rig.tokens.revokeOne(rig.sandbox.id, id)
  for (const { code, reason } of await Promise.all(closed)) assert.deepEqual([code, reason], [4401, 'token_ended'])
  assert.equal(staying.readyState, staying.OPEN)
  staying.terminate()
})
