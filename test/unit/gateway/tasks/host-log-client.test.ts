import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { HostGoneError } from '../../../../src/gateway/logs/host-log-client.ts'
import { hostLogReader } from '../host-log-rig.ts'
import { FakeHost } from '../proxy/proxy-rig.ts'

const line = { type: 'line', cursor: '0:1', at: '2026-01-01T00:00:00.000Z', stream: 'stdout', text: 'a', partial: false }

test('a kept connection that is closed as it is used again does not make a host gone; a second one does', async t => {
  const used = new Map<Socket, number>()
  let isDead = false
  const host = await FakeHost.start(t, (request, response) => {
    const { socket } = request
    used.set(socket, (used.get(socket) ?? 0) + 1)
    if (isDead || used.get(socket)! > 1) return socket.destroy()
    response.writeHead(200, { 'content-type': 'text/event-stream' }).end(`data: ${JSON.stringify(line)}\n\nevent: end\ndata: {}\n\n`)
  })
  const read = hostLogReader(t, host.url)
  for (const _ of [1, 2, 3]) assert.deepEqual(await read(), [line])
  assert.ok([...used.values()].includes(2), 'a connection was used again')
  isDead = true
  await assert.rejects(read(), HostGoneError)
})
