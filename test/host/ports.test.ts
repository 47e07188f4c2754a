/** What the kernels of sandboxes say about listening sockets, and how it is read. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pollUntil } from '../../src/lib/poll.ts'
import type { ExecCreate } from '../../src/schemas/exec.ts'
import { PortLister } from '../../src/services/network/port-lister.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const servers = ['8080', '127.0.0.1:5432', '[::1]:9090'].map(place => `busybox httpd -f -h /tmp -p ${place} &`)
// A connection that stays and a socket for datagrams: neither listens.
const others = 'nc -lu -p 53000 & until sleep 9999 | nc 127.0.0.1 8080; do sleep 0.05; done & wait'

test('what listens inside is seen, with its addresses, and what does not listen is not', async t => {
  const daemon = await TestDaemon.start(t)
  const lister = new PortLister({ execs: { run: (id: string, input: ExecCreate) => daemon.exec(id, input.argv, input) } })
  for (const runtime of ['runsc', 'runc']) {
    const idle = await daemon.create({ runtime })
    assert.deepEqual(await lister.list(idle.id), [], runtime)
    const { id } = await daemon.create({ runtime, entrypoint: ['sh', '-c', `${servers.join(' ')} ${others}`] })
    const isConnected = async () => /:1F90 [0-9A-F]+:[0-9A-F]{4} 01 /.test((await daemon.exec(id, ['cat', '/proc/net/tcp', '/proc/net/tcp6'])).stdout)
    assert.ok(await pollUntil(async () => (await lister.list(id)).length === servers.length && await isConnected(), 30_000))
    assert.deepEqual((await lister.list(id)).map(({ port, address, isLoopback }) => `${port} ${address} ${isLoopback}`), [
      '5432 127.0.0.1 true', '8080 :: false', '9090 ::1 true',
    ], runtime)
  }
})
