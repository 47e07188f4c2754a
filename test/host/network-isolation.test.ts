/** What addresses a sandbox reaches, and whose it can pretend to have: lines of the table in docs/network.md. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { promisify } from 'node:util'
import type { EgressRules } from '../../src/schemas/network.ts'
import { gratuitousArp, neighbourAdvertisement, pingFrame, udpFrame } from '../support/frames.ts'
import { eventually } from '../support/host-surgery.ts'
import type { Outcome, Target } from '../support/network-probe.ts'
import { prover, type Evidence } from '../support/network-table.ts'
import type { ProbeClient } from '../support/probe-client.ts'
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

/** A connection that somebody else can make, and the sandbox not. */
async function refused (sandbox: ProbedSandbox, address: string, port: number, other?: ProbeClient): Promise<Evidence> {
  if (other) assert.equal((await other.ask('tcp', { address, port })).outcome, 'open', 'it is there to be reached')
  await assertClosed(sandbox, { address, port })
  return { sandbox, address, port }
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
    await eventually(async () => (await world.seen()).includes(`text ${source} own`), 'what has the right source arrives')
    assert.ok(!(await world.seen()).includes(`text ${source} forged`), 'what has another does not')
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

    prove('a connection to another sandbox over IPv4', () => refused(open, victim.ipv4, probePort)),
    prove('a connection to another sandbox over IPv6', () => refused(open, victim.ipv6, probePort)),
    prove('a ping to another sandbox', async () => {
      await world.watch('to_victim', `oifname ${victimLink.device} icmp type echo-request`)
      await world.watch('replies', `oifname ${link.device} icmp type echo-reply`)
      await world.sendFrames(link, [victim.ipv4, outside.web4].map(destination => pingFrame({ fromMac: mac, toMac: gatewayMac, source: open.ipv4, destination })))
      await eventually(async () => await world.watched('replies') === 1, 'the reply from outside comes')
      assert.equal(await world.watched('to_victim'), 0)
      return { sandbox: open, address: victim.ipv4, protocol: 'icmp' }
    }),
    prove('a port of the host at the gateway\'s address', async () => await refused(open, (await world.heldBy(open)).gateway4, hostPort, host)),
    prove('a port of the host at the host\'s own address', () => refused(open, worldHost.ipv4, hostPort, outsider)),
    prove('a port of the host at the host\'s own IPv6 address', () => refused(open, worldHost.ipv6, hostPort, outsider)),
    prove('the metadata service', () => refused(open, outside.metadata4, 22, host)),
    prove('the metadata service over IPv6', () => refused(open, outside.metadata6, 22, host)),
    prove('another link-local address', () => refused(open, '169.254.7.7', 22)),
    prove('a private address', () => refused(open, outside.private4, 22, host)),
    prove('a private IPv6 address', () => refused(open, outside.private6, 22, host)),
    prove('a multicast group', async () => {
      await world.watch('multicast', 'oifname uplink udp dport { 5353, 5354 }')
      const groups = ['224.0.0.251', '239.1.2.3', 'ff02::fb', 'ff05::2']
      await Promise.all(groups.map(address => open.probe.ask('udp', { address, port: 5353, waitMs: 100 })))
      await open.probe.ask('udp', { address: outside.web4, port: 5354, waitMs: 100 })
      assert.equal(await world.watched('multicast'), 1, 'only what is for one address')
    }),

    prove('with `none`: a public address', async () => {
      await assertClosed(closed, { address: outside.web4, port: 22 })
      await assertClosed(closed, { address: outside.web6, port: 80 })
      assert.notEqual((await closed.probe.ask('udp', { address: outside.web4, port: echoPort, waitMs: 300 })).outcome, 'open')
      return { sandbox: closed, address: outside.web4, port: 22 }
    }),
    prove('with `none`: a name', async () => {
      assert.deepEqual(await closed.probe.ask('lookup', { name: 'a.wild.test' }), { addresses: [], code: 'ENOTFOUND' })
      assert.ok(!(await world.seen()).some(line => line.startsWith('dns a.wild.test')), 'nobody was asked')
      return { sandbox: closed, name: 'a.wild.test' }
    }),
    prove('with `internet`: public addresses over TCP and UDP, IPv4 and IPv6', async () => {
      for (const address of [outside.web4, outside.web6]) {
        for (const port of [22, 5432]) await assertOpen(open, { address, port })
        await assertOpen(open, { address, port: echoPort }, 'udp')
        assert.match((await open.probe.ask('tls', { address, name: 'allowed.test' })).text, /^hello from /)
      }
      assert.deepEqual((await open.probe.ask('lookup', { name: 'other.test' })).addresses, [outside.other6, outside.other4])
    }),
    prove('a private address and port that an entry allows', async () => {
      await assertOpen(listed, { address: outside.private4, port: 5432 })
      await assertOpen(listed, { address: outside.private6, port: 5432 })
    }),
    prove('another port of that address', () => refused(listed, outside.private4, 22, host)),
    prove('an address that no entry allows', async () => {
      await assertOpen(listed, { address: outside.web4, port: 22 })
      return await refused(listed, outside.dns4, 22, host)
    }),
    prove('an address that both allow and deny name', () => refused(listed, outside.web4, 5432, host)),
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
