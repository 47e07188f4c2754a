/** Logs over WebSockets, at every door of a daemon: its port, root's socket, and what a sandbox reaches of it. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { WebSocket } from 'ws'
import { makeProbeImage } from '../support/probe-client.ts'
import { bytesOf, untilClosed } from '../support/socket-rig.ts'
import { TestDaemon } from '../support/test-daemon.ts'

/** Runs in a sandbox: tells what came over a socket of the API, and how that was closed. */
const tail = `
const socket = new WebSocket(process.env.URL, ['berth.v1', 'bearer.' + process.env.TOKEN])
const types = []
socket.onmessage = ({ data }) => types.push(JSON.parse(data).type)
socket.onclose = ({ code }) => console.log(code, ...types)`

test('the log of a sandbox is followed at every door, and a daemon that ends says so', async t => {
  const daemon = await TestDaemon.start(t, { env: { BERTH_NETWORK_POOL_SIZE: '2' } })
  const { port } = new URL(daemon.url)
  const image = makeProbeImage(t)
  const [short, long] = await Promise.all([
    daemon.create({ entrypoint: ['sh', '-c', 'printf "one\\r\\n\\377\\000"; echo two >&2; exit 3'] }),
    daemon.create({ image: `dir:${image}`, entrypoint: ['/node', '-e', 'console.log("up"); setInterval(() => {}, 1000)'], network: { gateway: true } }),
  ])
  const headers = { authorization: `Bearer ${daemon.token}` }
  const pathOf = (id: string, query = '') => `/v1/sandboxes/${id}/logs/ws${query}`
  const byPort = (path: string) => new WebSocket(`ws://127.0.0.1:${port}${path}`, { headers })
  const bySocket = (path: string) => new WebSocket(`ws+unix://${daemon.socketPath}:${path}`)

  await t.test('to the end of its sandbox, byte for byte', async () => {
    for (const { messages, code } of await Promise.all([byPort(pathOf(short.id)), bySocket(pathOf(short.id))].map(untilClosed))) {
      assert.equal(code, 1000)
      assert.deepEqual(bytesOf(messages, 'stdout'), Buffer.from([...Buffer.from('one\r\n'), 0xff, 0x00]))
      assert.equal(bytesOf(messages, 'stderr').toString(), 'two\n')
      assert.deepEqual(messages.at(-1), { type: 'end', reason: 'exited', exitCode: 3 })
    }
  })

  await t.test('from inside a sandbox, its own alone', async () => {
    const { body: { token } } = await daemon.request<{ token: string }>('POST', `/v1/sandboxes/${long.id}/tokens`, {})
    const run = async (id: string) => {
      const { stdout, stderr } = await daemon.exec(long.id, ['/node', '-e', tail], { env: { URL: `ws://gateway.internal:${port}${pathOf(id, '?follow=false')}`, TOKEN: token } })
      return stdout + stderr
    }
    assert.equal(await run(long.id), '1000 output end\n')
    assert.equal(await run(short.id), '1006\n')
  })

  await t.test('until the daemon ends', async () => {
    const sockets = [byPort(pathOf(long.id)), bySocket(pathOf(long.id))]
    const closed = sockets.map(untilClosed)
    await Promise.all(sockets.map(async socket => await once(socket, 'message')))
    await daemon.end()
    for (const { code, reason } of await Promise.all(closed)) assert.deepEqual([code, reason], [1001, 'host_stopping'])
  })
})
