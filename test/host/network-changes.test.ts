/** What becomes of flows that run when the policy changes, how fast they may be, and who reaches the host's API: lines of the table in docs/network.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Bandwidth, NetworkRequest, NetworkStatus } from '../../src/schemas/network.ts'
import { eventually } from '../support/host-surgery.ts'
import { prover } from '../support/network-table.ts'
import { NetworkWorld, outside, type ProbedSandbox } from '../support/network-world.ts'

const bandwidth: Bandwidth = { downloadBitsPerSecond: 20_000_000, uploadBitsPerSecond: 20_000_000 }

async function change ({ daemon, id }: ProbedSandbox, network: NetworkRequest): Promise<void> {
  const answer = await daemon.request<NetworkStatus>('PUT', `/v1/sandboxes/${id}/network`, network)
  assert.equal(answer.status, 200, answer.text)
}

/** A flow that was running and on which nothing comes any more: what was under way is given a moment. */
async function assertSilent ({ probe }: ProbedSandbox, flow: number): Promise<void> {
  await delay(100)
  await probe.ask('flow', { flow })
  await delay(300)
  assert.equal((await probe.ask('flow', { flow })).received, 0)
}

async function assertRunning ({ probe }: ProbedSandbox, flow: number): Promise<void> {
  await eventually(async () => (await probe.ask('flow', { flow })).received > 0, 'more comes', 5_000)
}

test('a policy that changes is in force for what runs', { concurrency: true }, async t => {
  const world = await NetworkWorld.start(t)
  const daemon = await world.daemon()
  const apiPort = Number(new URL(daemon.url).port)
  const named: NetworkRequest = { egress: { allow: ['allowed.test', 'git.test:22', 'git.test:5432'] } }
  const [closed, tcp, udp, proxied, byPort, user, slow, fast] = await Promise.all([
    world.sandbox(daemon, { egress: 'none' }),
    world.sandbox(daemon, { egress: 'internet' }),
    world.sandbox(daemon, { egress: 'internet' }),
    world.sandbox(daemon, named),
    world.sandbox(daemon, named),
    world.sandbox(daemon, { egress: 'none', gateway: true }),
    world.sandbox(daemon, { egress: 'internet', bandwidth }),
    world.sandbox(daemon, { egress: 'internet' }),
  ])
  const prove = prover(t)
  const download = 'GET /stream HTTP/1.1\r\nHost: allowed.test\r\n\r\n'

  await Promise.all([
    prove('from `none` to `internet`: a new connection', async () => {
      assert.equal((await closed.probe.ask('tcp', { address: outside.web4, port: 22 })).outcome, 'refused')
      await change(closed, { egress: 'internet' })
      assert.equal((await closed.probe.ask('tcp', { address: outside.web4, port: 22 })).outcome, 'open')
      assert.equal((await closed.probe.ask('tls', { address: outside.web6, name: 'allowed.test' })).status, 200)
    }),
    prove('a TCP download that the new policy forbids', async () => {
      const { flow } = await tcp.probe.ask('tcp', { address: outside.web4, port: 80, text: download })
      await assertRunning(tcp, flow)
      await change(tcp, { egress: 'none' })
      await assertSilent(tcp, flow)
      return { sandbox: tcp, protocol: 'tcp' }
    }),
    prove('a UDP stream that only comes in, forbidden by the new policy', async () => {
      const { flow } = await udp.probe.ask('udp', { address: outside.web4, port: 9000 })
      await assertRunning(udp, flow)
      await change(udp, { egress: 'none' })
      await assertSilent(udp, flow)
    }),
    prove('a connection through the proxy that the new policy forbids', async () => {
      const { flow } = await proxied.probe.ask('tcp', { address: outside.web4, port: 80, text: download })
      await assertRunning(proxied, flow)
      await change(proxied, { egress: { allow: ['other.test'] } })
      await eventually(async () => (await proxied.probe.ask('flow', { flow })).isClosed, 'it is reset', 5_000)
    }),
    prove('a connection by a name\'s port that the new policy forbids', async () => {
      await byPort.probe.ask('lookup', { name: 'git.test' })
      const [cut, kept] = await Promise.all([22, 5432].map(port => byPort.probe.ask('tcp', { address: outside.web4, port })))
      const { flow: throughProxy } = await byPort.probe.ask('tcp', { address: outside.web4, port: 80, text: download })
      assert.deepEqual([cut?.outcome, kept?.outcome], ['open', 'open'])
      await change(byPort, { egress: { allow: ['allowed.test', 'git.test:5432'] } })
      await prove('a connection that both policies allow', async () => {
        await assertRunning(byPort, throughProxy)
        await byPort.probe.ask('send', { flow: kept?.flow ?? -1, text: 'still here\n' })
        await assertRunning(byPort, kept?.flow ?? -1)
      })
      await byPort.probe.ask('flow', { flow: cut?.flow ?? -1 })
      await byPort.probe.ask('send', { flow: cut?.flow ?? -1, text: 'still here\n' })
      await assertSilent(byPort, cut?.flow ?? -1)
      assert.equal((await byPort.probe.ask('tcp', { address: outside.web4, port: 22 })).outcome, 'refused')
    }),

    prove('the host\'s API without `gateway`', async () => {
      const { gateway4 } = await world.heldBy(udp)
      assert.equal((await udp.probe.ask('tcp', { address: gateway4, port: apiPort, text: 'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n' })).outcome, 'refused')
      return { sandbox: udp, address: gateway4, port: apiPort }
    }),
    prove('the host\'s API with `gateway` and without a token', async () => {
      const [address = ''] = (await user.probe.ask('lookup', { name: 'gateway.internal' })).addresses
      const [answer] = await user.probe.ask('http', { requests: [{ address, host: `gateway.internal:${apiPort}`, port: apiPort, path: '/v1/sandboxes' }] })
      assert.equal(answer?.status, 401, JSON.stringify({ address, answer }))
      assert.equal((await user.probe.ask('tcp', { address: outside.web4, port: 22 })).outcome, 'refused', 'nothing else is open')
    }),
    prove('the host\'s API with `gateway` and a token', async () => {
      for (const address of (await user.probe.ask('lookup', { name: 'gateway.internal' })).addresses) {
        const [answer] = await user.probe.ask('http', { requests: [{ address, host: `gateway.internal:${apiPort}`, port: apiPort, path: '/v1/host', token: daemon.token }] })
        assert.equal(answer?.status, 200, `${address}: ${answer?.text}`)
      }
    }),
  ])
  // Alone: how much another gets at the same time is not in question.
  await prove('downloading with a limit', () => assertLimited(({ probe }) => probe.ask('download', { address: outside.web4, ms: 500 })))
  await prove('uploading with a limit', () => assertLimited(({ probe }) => probe.ask('upload', { address: outside.web4 })))

  /** Much slower than another without a limit, by how much comes through in the same time; and as fast when it has none. */
  async function assertLimited (bytesOf: (sandbox: ProbedSandbox) => Promise<number>): Promise<void> {
    const [limited, unlimited] = [await bytesOf(slow), await bytesOf(fast)]
    assert.ok(limited > 0 && limited * 3 < unlimited, `${limited} and ${unlimited} bytes in half a second`)
    await change(slow, { egress: 'internet' })
    const lifted = await bytesOf(slow)
    assert.ok(limited * 3 < lifted, `${limited} and, without the limit, ${lifted}`)
    await change(slow, { egress: 'internet', bandwidth })
    assert.ok(await bytesOf(slow) * 3 < unlimited, 'and with it again')
  }
})
