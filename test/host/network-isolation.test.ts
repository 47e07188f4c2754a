/** What addresses a sandbox reaches, and whose it can pretend to have: lines of the table in docs/network.md. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { promisify } from 'node:util'
import type { EgressRules } from '../../src/schemas/network.ts'
import { gratuitousArp, neighbourAdvertisement, udpFrame } from '../support/frames.ts'
import { eventually } from '../support/host-surgery.ts'
import type { Outcome, Target } from '../support/network-probe.ts'
import { prover } from '../support/network-table.ts'
import { NetworkWorld, outside, worldHost, type ProbedSandbox } from '../support/network-world.ts'

const run = promisify(execFile)
const hostPort = 8022
const echoPort = 7
/** Where a probe in a sandbox listens. */
const probePort = 4000

/** What is tried reaches nothing: at once where it is answered, and else after some time. */
async function assertClosed ({ probe }: ProbedSandbox, target: Target, outcomes: Outcome[] = ['refused']): Promise<void> {
  const { outcome } = await probe.ask('tcp', target)
  assert.ok(outcomes.includes(outcome), `${target.address}:${target.port} is ${outcome}`)
}

async function assertOpen ({ probe }: ProbedSandbox, target: Target, op: 'tcp' | 'udp' = 'tcp'): Promise<void> {
  assert.equal((await probe.ask(op, target)).outcome, 'open', `${op} ${target.address}:${target.port}`)
}

test('a sandbox speaks with its own addresses, and reaches what it may', { concurrency: true }, async t => {
  const world = await NetworkWorld.start(t)
  const daemon = await world.daemon()
  const rules: EgressRules = {
    allow: [`${outside.private4}:5432`, outside.web4, `[${outside.private6}]:5432`, '203.0.113.0/28'],
    deny: [outside.other4, `${outside.web4}:5432`],
  }
  const [open, victim, closed, listed] = await Promise.all([
    world.sandbox(daemon, { egress: 'internet' }),
    world.sandbox(daemon, { egress: 'internet' }),
    world.sandbox(daemon, { egress: 'none' }),
    world.sandbox(daemon, { egress: rules }),
  ])
  const host = world.probe('host')
  await host.ask('listen', { protocol: 'tcp', port: hostPort })
  const outsider = world.probe('outside')
  const [link, victimLink] = await Promise.all([world.linkOf(open), world.linkOf(victim)])
  const { mac, gatewayMac } = link
  const victimOnHost = async () => (await world.onHost('ip', 'neighbour', 'show', 'dev', victimLink.device)).trim().split('\n').map(line => line.trim()).toSorted()
  const prove = prover(t)

  /** What is sent from the sandbox's own namespace with this source never arrives; with the sandbox's own address, it does. */
  async function assertStopped (source: string, own: string, destination: string): Promise<void> {
    const datagrams = [source, own].map((from, index) => udpFrame({ fromMac: mac, toMac: gatewayMac, source: from, destination, port: echoPort, text: `${source} ${index === 0 ? 'forged' : 'own'}` }))
    await world.sendFrames(link, datagrams)
    await eventually(() => world.seen().includes(`text ${source} own`), 'what has the right source arrives')
    assert.ok(!world.seen().includes(`text ${source} forged`), 'what has another does not')
  }

  await Promise.all([
    prove('IPv4 packets with another sandbox\'s source address', async () => {
      await assertStopped(victim.ipv4, open.ipv4, outside.web4)
      return { sandbox: open, address: outside.web4, port: echoPort, protocol: 'udp' }
    }),
    prove('IPv6 packets with another sandbox\'s source address', async () => {
      await assertStopped(victim.ipv6, open.ipv6, outside.web6)
      return { sandbox: open, address: outside.web6, port: echoPort, protocol: 'udp' }
    }),
    prove('packets with a source address that nobody has', async () => {
      await assertStopped('10.9.9.9', open.ipv4, outside.other4)
      await assertStopped('2001:db8:9::9', open.ipv6, outside.other6)
      return { sandbox: open, address: outside.other6, port: echoPort, protocol: 'udp' }
    }),
    prove('a foreign address added to eth0', async () => {
      // With runc, addresses of the namespace are the sandbox's own; gVisor has its own network stack.
      const inside = await daemon.exec(open.id, ['/bin/ip', 'address', 'add', `${victim.ipv4}/32`, 'dev', 'eth0'])
      assert.notEqual(inside.exitCode, 0, inside.stdout)
      const plain = await world.sandbox(daemon, { egress: 'internet' }, { runtime: 'runc' })
      assert.notEqual((await daemon.exec(plain.id, ['/bin/ip', 'address', 'add', '10.9.9.8/32', 'dev', 'eth0'])).exitCode, 0)
      await run('ip', ['-n', (await world.linkOf(plain)).netns, 'address', 'add', '10.9.9.8/32', 'dev', 'eth0'])
      await assertOpen(plain, { address: outside.web4, port: 22, localAddress: plain.ipv4 })
      await assertClosed(plain, { address: outside.web4, port: 22, localAddress: '10.9.9.8', waitMs: 300 }, ['silent'])
      return { sandbox: plain, address: outside.web4, port: 22 }
    }),
    prove('an ARP announcement of another sandbox\'s address', async () => {
      const before = await victimOnHost()
      await world.sendFrames(link, [gratuitousArp({ fromMac: mac, address: victim.ipv4, target: victim.ipv4 })])
      assert.deepEqual(await victimOnHost(), before)
      assert.ok(before.some(line => line === `${victim.ipv4} lladdr ${victimLink.mac} PERMANENT`), String(before))
      const strangers = await world.onHost('ip', 'neighbour', 'show', victim.ipv4, 'dev', link.device)
      assert.equal(strangers.trim(), '')
      const reached = await host.ask('tcp', { address: victim.ipv4, port: probePort, text: '{"id": 1, "op": "ping"}\n' })
      assert.deepEqual([reached.outcome, reached.text], ['open', '{"id":1,"value":"pong"}'])
    }),
    prove('a neighbour advertisement of another sandbox\'s address', async () => {
      const before = await victimOnHost()
      await world.sendFrames(link, [neighbourAdvertisement({ fromMac: mac, toMac: gatewayMac, address: victim.ipv6, target: 'fe80::1' })])
      assert.deepEqual(await victimOnHost(), before)
      assert.ok(before.some(line => line === `${victim.ipv6} lladdr ${victimLink.mac} PERMANENT`), String(before))
      assert.equal((await world.onHost('ip', 'neighbour', 'show', victim.ipv6, 'dev', link.device)).trim(), '')
      assert.equal((await host.ask('tcp', { address: victim.ipv6, port: probePort, text: '{"id": 1, "op": "ping"}\n' })).outcome, 'open')
    }),

    ...([['IPv4', victim.ipv4], ['IPv6', victim.ipv6]] as const).map(([family, address]) => prove(`a connection to another sandbox over ${family}`, async () => {
      await assertClosed(open, { address, port: probePort })
      return { sandbox: open, address, port: probePort }
    })),
    prove('a ping to another sandbox', async () => {
      assert.equal((await daemon.exec(open.id, ['/bin/ping', '-c', '1', '-W', '2', outside.web4])).exitCode, 0)
      assert.equal((await daemon.exec(open.id, ['/bin/ping', '-c', '1', '-W', '1', victim.ipv4])).exitCode, 1)
      return { sandbox: open, address: victim.ipv4, protocol: 'icmp' }
    }),
    prove('a port of the host at the gateway\'s address', async () => {
      const { gateway4 } = await world.heldBy(open)
      assert.equal((await host.ask('tcp', { address: gateway4, port: hostPort })).outcome, 'open')
      await assertClosed(open, { address: gateway4, port: hostPort })
      return { sandbox: open, address: gateway4, port: hostPort }
    }),
    ...([['own', worldHost.ipv4], ['own IPv6', worldHost.ipv6]] as const).map(([which, address]) => prove(`a port of the host at the host's ${which} address`, async () => {
      assert.equal((await outsider.ask('tcp', { address, port: hostPort })).outcome, 'open')
      await assertClosed(open, { address, port: hostPort })
      return { sandbox: open, address, port: hostPort }
    })),
    ...([
      ['the metadata service', outside.metadata4], ['the metadata service over IPv6', outside.metadata6],
      ['a private address', outside.private4], ['a private IPv6 address', outside.private6],
    ] as const).map(([attempt, address]) => prove(attempt, async () => {
      assert.equal((await host.ask('tcp', { address, port: 22 })).outcome, 'open', 'the host itself reaches it')
      await assertClosed(open, { address, port: 22 })
      return { sandbox: open, address, port: 22 }
    })),
    prove('another link-local address', async () => {
      await assertClosed(open, { address: '169.254.7.7', port: 22 })
      return { sandbox: open, address: '169.254.7.7', port: 22 }
    }),
    prove('a multicast group', async () => {
      await world.onHost('nft', 'add table inet watch; add chain inet watch out { type filter hook postrouting priority 300; }; ' +
        'add rule inet watch out oifname uplink udp dport { 5353, 5354 } counter')
      const groups = ['224.0.0.251', '239.1.2.3', 'ff02::fb', 'ff05::2']
      await Promise.all(groups.map(address => open.probe.ask('udp', { address, port: 5353, waitMs: 100 })))
      await open.probe.ask('udp', { address: outside.web4, port: 5354, waitMs: 100 })
      assert.match(await world.onHost('nft', 'list', 'chain', 'inet', 'watch', 'out'), /counter packets 1 /)
    }),

    prove('with `none`: a public address', async () => {
      await assertClosed(closed, { address: outside.web4, port: 22 })
      await assertClosed(closed, { address: outside.web6, port: 80 })
      assert.notEqual((await closed.probe.ask('udp', { address: outside.web4, port: echoPort, waitMs: 300 })).outcome, 'open')
      return { sandbox: closed, address: outside.web4, port: 22 }
    }),
    prove('with `none`: a name', async () => {
      assert.deepEqual(await closed.probe.ask('lookup', { name: 'a.wild.test' }), { addresses: [], code: 'ENOTFOUND' })
      assert.ok(!world.seen().some(line => line.startsWith('dns a.wild.test')), 'nobody was asked')
      return { sandbox: closed, name: 'a.wild.test' }
    }),
    prove('with `internet`: public addresses over TCP, UDP and ICMP, IPv4 and IPv6', async () => {
      for (const address of [outside.web4, outside.web6]) {
        for (const port of [22, 5432]) await assertOpen(open, { address, port })
        await assertOpen(open, { address, port: echoPort }, 'udp')
        assert.match((await open.probe.ask('tls', { address, name: 'allowed.test' })).text, /^hello from /)
        assert.equal((await daemon.exec(open.id, ['/bin/ping', '-c', '1', '-W', '2', address])).exitCode, 0)
      }
      assert.deepEqual((await open.probe.ask('lookup', { name: 'other.test' })).addresses, [outside.other6, outside.other4])
    }),
    prove('a private address and port that an entry allows', async () => {
      await assertOpen(listed, { address: outside.private4, port: 5432 })
      await assertOpen(listed, { address: outside.private6, port: 5432 })
    }),
    prove('another port of that address', async () => {
      await assertClosed(listed, { address: outside.private4, port: 22 })
      return { sandbox: listed, address: outside.private4, port: 22 }
    }),
    prove('an address that no entry allows', async () => {
      await assertOpen(listed, { address: outside.web4, port: 22 })
      await assertClosed(listed, { address: outside.dns4, port: 22 })
      return { sandbox: listed, address: outside.dns4, port: 22 }
    }),
    prove('an address that both allow and deny name', async () => {
      await assertClosed(listed, { address: outside.web4, port: 5432 })
      return { sandbox: listed, address: outside.web4, port: 5432 }
    }),
    prove('more connections at once than 1024', async () => {
      const crowd = await world.sandbox(daemon, { egress: 'internet' })
      const counts = { open: 0, refused: 0, silent: 0 }
      // In portions: connections made at once are limited too.
      for (let portion = 0; portion < 11; portion++) {
        const made = await crowd.probe.ask('many', { address: outside.web4, port: 22, count: 100, waitMs: 4000 })
        for (const outcome of ['open', 'refused', 'silent'] as const) counts[outcome] += made[outcome]
      }
      assert.equal(counts.open, 1024, JSON.stringify(counts))
      return { sandbox: crowd, address: outside.web4, port: 22 }
    }),
    prove('a sandbox\'s own address from outside', async () => {
      assert.equal((await host.ask('tcp', { address: victim.ipv4, port: probePort, text: '{"id": 1, "op": "ping"}\n' })).outcome, 'open')
      assert.equal((await outsider.ask('tcp', { address: victim.ipv4, port: probePort, waitMs: 300 })).outcome, 'silent')
      assert.equal((await outsider.ask('tcp', { address: victim.ipv6, port: probePort, waitMs: 300 })).outcome, 'silent')
      return { sandbox: victim, port: probePort }
    }),
  ])
})
