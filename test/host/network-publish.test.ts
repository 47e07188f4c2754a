/** How others reach a sandbox: lines of the table in docs/network.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { NetworkRequest, NetworkStatus } from '../../src/schemas/network.ts'
import type { ErrorBody } from '../../src/schemas/wire.ts'
import type { ProbeClient } from '../support/probe-client.ts'
import { prover } from '../support/network-table.ts'
import { NetworkWorld, outside, worldHost, type ProbedSandbox } from '../support/network-world.ts'

const port = 7000
const publish: NetworkRequest['publish'] = [{ port }, { port, protocol: 'udp' }]

/** The port of the host that leads to the one that listens in a sandbox. */
async function hostPortOf ({ daemon, id }: ProbedSandbox, protocol: 'tcp' | 'udp'): Promise<number> {
  const { body } = await daemon.request<NetworkStatus>('GET', `/v1/sandboxes/${id}/network`)
  return body.publish.find(published => published.protocol === protocol)?.hostPort ?? 0
}

async function listen ({ probe }: ProbedSandbox): Promise<void> {
  for (const protocol of ['tcp', 'udp'] as const) await probe.ask('listen', { protocol, port })
}

test('published ports lead inside, from where they are held', { concurrency: true }, async t => {
  const world = await NetworkWorld.start(t)
  // The claims of both daemons are in the same namespace.
  const [local, everywhere] = [await world.daemon(), await world.daemon({ env: { BERTH_PUBLISH_ADDRESS: '0.0.0.0' } })]
  const [inner, front, other, loser] = await Promise.all([
    world.sandbox(local, { publish }),
    world.sandbox(everywhere, { publish }),
    world.sandbox(everywhere, { egress: 'internet' }),
    world.sandbox(local, {}),
  ])
  await Promise.all([listen(inner), listen(front)])
  const [host, outsider] = [world.probe('host'), world.probe('outside')]
  const [tcpPort, udpPort, frontTcp, frontUdp] = await Promise.all([
    hostPortOf(inner, 'tcp'), hostPortOf(inner, 'udp'), hostPortOf(front, 'tcp'), hostPortOf(front, 'udp'),
  ])
  const prove = prover(t)
  const assertTalk = async (from: ProbeClient, target: { address: string, port: number }, op: 'tcp' | 'udp', client?: string) => {
    const { outcome, text, flow } = await from.ask(op, target)
    assert.equal(outcome, 'open', `${target.address}:${target.port}`)
    if (client !== undefined) assert.equal(text, client)
    await from.ask('flow', { flow })
    await from.ask('send', { flow, text: 'more' })
    await delay(100)
    assert.ok((await from.ask('flow', { flow })).received > 0)
  }
  const reachedFromHost = async (op: 'tcp' | 'udp', held: number, open: number) => {
    await assertTalk(host, { address: '127.0.0.1', port: held }, op)
    await assertTalk(host, { address: '127.0.0.1', port: open }, op)
    await assertTalk(host, { address: worldHost.ipv4, port: open }, op)
  }

  await Promise.all([
    prove('a published TCP port from the host, by 127.0.0.1', () => reachedFromHost('tcp', tcpPort, frontTcp)),
    prove('a published UDP port from the host, by 127.0.0.1', () => reachedFromHost('udp', udpPort, frontUdp)),
    prove('a published port from outside, held at 127.0.0.1', async () => {
      assert.equal((await outsider.ask('tcp', { address: worldHost.ipv4, port: tcpPort })).outcome, 'refused')
      assert.equal((await outsider.ask('tcp', { address: worldHost.ipv6, port: tcpPort })).outcome, 'refused')
      assert.notEqual((await outsider.ask('udp', { address: worldHost.ipv4, port: udpPort, waitMs: 300 })).outcome, 'open')
    }),
    prove('a published TCP port from outside, held everywhere', () => assertTalk(outsider, { address: worldHost.ipv4, port: frontTcp }, 'tcp', outside.router4)),
    prove('a published TCP port from outside over IPv6, held everywhere', () => assertTalk(outsider, { address: worldHost.ipv6, port: frontTcp }, 'tcp', outside.router6)),
    prove('a published UDP port from outside, held everywhere', async () => {
      await assertTalk(outsider, { address: worldHost.ipv4, port: frontUdp }, 'udp', outside.router4)
      await assertTalk(outsider, { address: worldHost.ipv6, port: frontUdp }, 'udp', outside.router6)
    }),
    prove('a published port from another sandbox', async () => {
      assert.equal((await other.probe.ask('tcp', { address: worldHost.ipv4, port: frontTcp })).outcome, 'refused')
      assert.equal((await other.probe.ask('tcp', { address: worldHost.ipv6, port: frontTcp })).outcome, 'refused')
      assert.equal((await other.probe.ask('tcp', { address: front.ipv4, port, waitMs: 300 })).outcome, 'refused')
      return { sandbox: other, address: worldHost.ipv4, port: frontTcp }
    }),
    prove('a port of the host that is taken', async () => {
      await host.ask('listen', { protocol: 'tcp', port: 18_123 })
      await assertTaken({ publish: [{ port, hostPort: 18_123 }] })
    }),
    prove('a port of the host that another sandbox publishes', async () => {
      await assertTaken({ publish: [{ port, hostPort: tcpPort }] })
      await assertTaken({ publish: [{ port, hostPort: frontTcp }] })
    }),
  ])
  await prove('a connection to a port that is not published any more', async () => {
    for (const [sandbox, from, target] of [[inner, host, { address: '127.0.0.1', port: tcpPort }], [front, outsider, { address: worldHost.ipv4, port: frontTcp }]] as const) {
      const { flow, outcome } = await from.ask('tcp', target)
      assert.equal(outcome, 'open')
      const answer = await sandbox.daemon.request('PUT', `/v1/sandboxes/${sandbox.id}/network`, { publish: [] })
      assert.equal(answer.status, 200, answer.text)
      await from.ask('flow', { flow })
      await from.ask('send', { flow, text: 'anybody?' })
      await delay(200)
      assert.equal((await from.ask('flow', { flow })).received, 0)
      assert.equal((await from.ask('tcp', target)).outcome, 'refused')
    }
  })

  /** Refused, and nothing changes: neither for a sandbox that runs nor by a create. */
  async function assertTaken (network: NetworkRequest): Promise<void> {
    const answers = [
      await local.request<ErrorBody>('PUT', `/v1/sandboxes/${loser.id}/network`, network),
      await local.request<ErrorBody>('POST', '/v1/sandboxes', { image: 'berth/base', network }),
    ]
    for (const { status, body, text } of answers) assert.deepEqual([status, body.code, body.details?.['hostPort']], [409, 'port_taken', network.publish?.[0]?.hostPort], text)
    assert.deepEqual((await local.sandbox(loser.id)).network.publish, [])
  }
})
