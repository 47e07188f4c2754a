import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { test, type TestContext } from 'node:test'
import { Worker } from 'node:worker_threads'
import { buildPreviewRig } from '../../support/preview-rig.ts'

const host = '127.0.0.1'

/** A port whose queue of connections is full, as that of a program that was frozen: the system answers no further one. */
async function openFullPort (t: TestContext): Promise<number> {
  const worker = new Worker(`
    const { createServer } = require('node:net')
    const { parentPort } = require('node:worker_threads')
    const server = createServer().listen({ host: '${host}', port: 0, backlog: 1 }, () => {
      parentPort.postMessage(server.address().port)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
    })`, { eval: true })
  t.after(async () => { await worker.terminate() })
  const [port] = await once(worker, 'message') as [number]
  for (let n = 0; n < 2; n++) {
    const socket = net.connect(port, host)
    t.after(() => { socket.destroy() })
    socket.on('error', () => {})
    await once(socket, 'connect')
  }
  return port
}

test('a port that takes no connection in time is 504, also for a browser, a body and an upgrade', async t => {
  const rig = await buildPreviewRig(t, { connectTimeoutMs: 100 })
  const port = await openFullPort(t)
  const upgrade = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-key': 'x' }
  for (const asked of [{}, { headers: { accept: 'text/html' } }, { method: 'POST', body: 'x' }, { headers: upgrade }]) {
    const reply = await rig.ask(rig.pathTo(port), { ...asked, headers: { ...rig.asAdmin, ...asked.headers } })
    assert.equal(reply.status, 504, reply.text)
    const { code, message, details } = JSON.parse(reply.text)
    assert.equal(code, 'port_unreachable')
    assert.match(message, /cannot be connected to/)
    assert.deepEqual(details, { port })
  }
  assert.equal(rig.forwarder.open.count(), 0)
})

test('a client that goes away while its port is being connected to leaves nothing', async t => {
  const rig = await buildPreviewRig(t, { connectTimeoutMs: 60_000 })
  const port = await openFullPort(t)
  const client = net.connect(rig.port, host)
  client.write(`GET ${rig.pathTo(port)} HTTP/1.1\r\nHost: x\r\nAuthorization: ${rig.asAdmin.authorization}\r\n\r\n`)
  while (rig.forwarder.open.count() === 0) await new Promise(resolve => setTimeout(resolve, 2))
  client.destroy()
  while (rig.forwarder.open.count() > 0) await new Promise(resolve => setTimeout(resolve, 2))
})

test('a sandbox has at most 512 previews open, each other as many', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve((_request, response) => response.end('fine'))
  const ends = Array.from({ length: 512 }, () => rig.forwarder.open.begin(rig.sandbox.id, () => {}).end)
  const reply = await rig.ask(rig.pathTo(port), { headers: rig.asAdmin })
  assert.equal(reply.status, 429)
  const { code, message } = JSON.parse(reply.text)
  assert.equal(code, 'too_many_previews')
  assert.match(message, /512 connections/)
  assert.equal((await rig.ask(rig.pathTo(port).replace(rig.sandbox.id, rig.other.id), { headers: rig.asAdmin })).text, 'fine')
  ends[0]?.()
  ends[0]?.()
  assert.equal(rig.forwarder.open.count(rig.sandbox.id), 511)
  assert.equal((await rig.ask(rig.pathTo(port), { headers: rig.asAdmin })).text, 'fine')
  for (const end of ends) end()
  assert.equal(rig.forwarder.open.count(), 0)
})
