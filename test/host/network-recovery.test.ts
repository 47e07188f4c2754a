/** What becomes of networks when a daemon, its network server or the host dies, or somebody changes them by hand. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import type { DecisionPage, NetworkRequest, NetworkStatus } from '../../src/schemas/network.ts'
import { eventually, simulateReboot } from '../support/host-surgery.ts'
import { NetworkWorld, outside, worldHost, type ProbedSandbox } from '../support/network-world.ts'
import { findRemains } from '../support/remains.ts'
import type { TestDaemon } from '../support/test-daemon.ts'

const run = promisify(execFile)
const port = 7000
const named: NetworkRequest = { egress: { allow: ['allowed.test', 'git.test:22'] } }
const strangers = [
  'add table inet berthless', 'add set inet berthless s { type ipv4_addr; }', 'add element inet berthless s { 192.0.2.7 }',
  'add chain inet berthless c { type filter hook forward priority 5; policy accept; }', 'add rule inet berthless c ip saddr @s drop',
  'add table ip nat', 'add chain ip nat out { type nat hook postrouting priority 100; }', 'add rule ip nat out ip saddr 192.0.2.0/24 masquerade',
].join('; ')

const reach = async ({ probe }: ProbedSandbox, address: string, atPort = 22) => (await probe.ask('tcp', { address, port: atPort })).outcome

async function change ({ daemon, id }: ProbedSandbox, network: NetworkRequest): Promise<void> {
  const answer = await daemon.request<NetworkStatus>('PUT', `/v1/sandboxes/${id}/network`, network)
  assert.equal(answer.status, 200, answer.text)
}

/** A connection to an echo goes on. */
async function assertEcho ({ probe }: ProbedSandbox, { flow }: { flow: number }): Promise<void> {
  await probe.ask('flow', { flow })
  await probe.ask('send', { flow, text: 'still here\n' })
  await eventually(async () => (await probe.ask('flow', { flow })).received > 0, 'the echo comes', 5_000)
}

async function assertDecided ({ daemon, id }: ProbedSandbox, facts: Record<string, unknown>): Promise<void> {
  await eventually(async () => {
    const { body } = await daemon.request<DecisionPage>('GET', `/v1/sandboxes/${id}/network/decisions?limit=1000`)
    return body.items.some(decision => Object.entries(facts).every(([key, value]) => decision[key as keyof typeof decision] === value))
  }, `a decision ${JSON.stringify(facts)}`, 10_000)
}

/** What three sandboxes with an open, a named and a closed network may do, and may not. */
async function assertInForce ([open, byName, closed]: readonly [ProbedSandbox, ProbedSandbox, ProbedSandbox]): Promise<void> {
  const outcomes = await Promise.all([
    reach(open, outside.web4), reach(open, outside.web6), reach(open, outside.private4), reach(open, worldHost.ipv4, port), reach(open, closed.ipv4, 4000),
    reach(closed, outside.web4), reach(byName, outside.other4),
  ])
  assert.deepEqual(outcomes, ['open', 'open', 'refused', 'refused', 'refused', 'refused', 'refused'])
}

/** Of the network server, once there is one: a daemon does not wait for it. */
async function serverPid (daemon: TestDaemon): Promise<number> {
  let pid = 0
  await eventually(async () => {
    pid = Number(await readFile(join(daemon.runDir, 'network-server', 'pid'), 'latin1').catch(() => '0'))
    return pid > 0
  }, 'there is a network server')
  return pid
}

test('networks go on without a daemon, and the next one takes them over', async t => {
  const world = await NetworkWorld.start(t)
  await world.onHost('nft', strangers)
  await world.onHost('ip', 'address', 'add', '192.0.2.77/32', 'dev', 'lo', 'label', 'lo:mine')
  const daemon = await world.daemon()
  const [open, byName, closed] = await Promise.all([
    world.sandbox(daemon, { egress: 'internet', publish: [{ port }] }), world.sandbox(daemon, named), world.sandbox(daemon, { egress: 'none' }),
  ])
  const trio = [open, byName, closed] as const
  // Forwarding has been switched on with the daemon's start.
  const foreign = await world.foreignParts()
  assert.match(foreign, /berthless[^]*192\.0\.2\.77/)
  const host = world.probe('host')
  await host.ask('listen', { protocol: 'tcp', port })
  await open.probe.ask('listen', { protocol: 'tcp', port })
  const hostPort = (await daemon.sandbox(open.id)).network.publish[0]?.hostPort ?? 0
  const running = await open.probe.ask('tcp', { address: outside.web6, port: 5432 })
  await byName.probe.ask('lookup', { name: 'git.test' })
  const kept = await byName.probe.ask('tcp', { address: outside.web4, port: 22 })
  assert.equal(kept.outcome, 'open')

  await t.test('while none lives, all rules are in force, names are answered and ports held', async () => {
    await daemon.end('SIGKILL')
    await assertEcho(open, running)
    await assertInForce(trio)
    assert.equal((await byName.probe.ask('tls', { address: outside.web4, name: 'allowed.test' })).status, 200)
    assert.equal((await byName.probe.ask('tls', { address: outside.web4, name: 'forbidden.test' })).status, 0)
    assert.deepEqual((await byName.probe.ask('lookup', { name: 'other.test' })).addresses, [])
    assert.equal(await reach(byName, outside.web4, 22), 'open', 'what a name opened stays open')
    assert.equal((await host.ask('tcp', { address: '127.0.0.1', port: hostPort })).outcome, 'open')
  })

  await t.test('the next daemon has the same sandboxes, with what was decided meanwhile, and can change them', async () => {
    await daemon.start()
    await assertEcho(open, running)
    await assertInForce(trio)
    await assertDecided(byName, { kind: 'tls', action: 'denied', name: 'forbidden.test' })
    await assertDecided(byName, { kind: 'dns', action: 'denied', name: 'other.test' })
    await assertDecided(open, { kind: 'packet', reason: 'private_address', address: outside.private4 })
    assert.equal(await reach(byName, outside.web4, 22), 'open', 'what a name opened stays open')
    await assertEcho(byName, kept)
    await change(closed, { egress: 'internet' })
    assert.equal(await reach(closed, outside.web4), 'open')
    await change(byName, { egress: 'none' })
    assert.equal(await reach(byName, outside.web4, 22), 'refused')
    await change(byName, named)
    await change(closed, { egress: 'none' })
    assert.equal((await daemon.sandbox(open.id)).network.publish[0]?.hostPort, hostPort)
    assert.equal((await host.ask('tcp', { address: '127.0.0.1', port: hostPort })).outcome, 'open')
  })

  await t.test('what lies about is removed, what was removed is put back, and what is others\' stays', async () => {
    const { netns, device } = await world.linkOf(open)
    const [, tag = ''] = netns.split('-')
    const [half, link, others] = [`berth-${tag}-0ffd`, `bv${tag}0ffc`, 'berth-zzzzzz-0002']
    await daemon.end('SIGKILL')
    await run('ip', ['netns', 'add', half])
    await run('ip', ['netns', 'add', others])
    try {
      const group = (JSON.parse(await world.onHost('ip', '-j', 'link', 'show', 'dev', device)) as Array<{ group: string }>)[0]?.group ?? ''
      await world.onHost('ip', 'link', 'add', link, 'group', group, 'type', 'veth', 'peer', 'name', 'stray')
      await world.onHost('nft', `delete element inet berth_${tag} egress { ${device} }`)
      assert.equal(await reach(open, outside.web4), 'refused')
      await daemon.start()
      await assertInForce(trio)
      const names = async () => (await run('ip', ['netns', 'list'])).stdout
      await eventually(async () => !(await names()).includes(half), 'the half-made namespace is removed')
      await eventually(async () => !(await world.parts()).includes(`link ${link}`), 'the stray link is removed')
      assert.match(await names(), new RegExp(others))
    } finally {
      await run('ip', ['netns', 'delete', others])
    }
  })

  await t.test('a table that somebody has deleted comes back whole by itself', async () => {
    const [, tag = ''] = (await world.linkOf(open)).netns.split('-')
    await world.onHost('nft', 'delete', 'table', 'inet', `berth_${tag}`)
    await eventually(async () => (await world.parts()).includes(`table berth_${tag}`), 'the table is there again')
    await assertInForce(trio)
    await assertEcho(open, running)
    await byName.probe.ask('lookup', { name: 'git.test' })
    assert.equal(await reach(byName, outside.web4, 22), 'open')
  })

  await t.test('a network server that dies is replaced, and all it did goes on', async () => {
    const before = await serverPid(daemon)
    process.kill(before, 'SIGKILL')
    await eventually(async () => await serverPid(daemon) !== before, 'there is another')
    await eventually(async () => (await byName.probe.ask('tls', { address: outside.web4, name: 'allowed.test' })).status === 200, 'names work')
    assert.equal((await byName.probe.ask('tls', { address: outside.web4, name: 'other.test' })).status, 0)
    await assertDecided(byName, { kind: 'tls', action: 'denied', name: 'other.test' })
    await eventually(async () => (await host.ask('tcp', { address: '127.0.0.1', port: hostPort })).outcome === 'open', 'ports are held')
    await assertInForce(trio)
  })

  await t.test('a daemon that ends and begins as it should changes nothing, and what is others\' is as it was', async () => {
    const pid = await serverPid(daemon)
    assert.equal(await daemon.end('SIGTERM'), 0)
    await assertInForce(trio)
    await daemon.start()
    assert.equal(await serverPid(daemon), pid, 'the network server is the same')
    await assertInForce(trio)
    assert.equal(await world.foreignParts(), foreign)
  })
})

test('nothing is left of networks when their sandboxes are gone, or the host has restarted', async t => {
  const world = await NetworkWorld.start(t)
  const daemon = await world.daemon()
  const full: NetworkRequest = {
    ...named, publish: [{ port }, { port, protocol: 'udp' }], bandwidth: { uploadBitsPerSecond: 10_000_000, downloadBitsPerSecond: 10_000_000 }, gateway: true,
  }

  await t.test('many at once, each with an address of its own', async () => {
    const created = await Promise.all(Array.from({ length: 10 }, () => daemon.create({ network: full })))
    assert.equal(new Set(created.map(({ network }) => network.ipv4)).size, 10)
    assert.equal(new Set(created.map(({ network }) => network.publish[0]?.hostPort)).size, 10)
    await Promise.all(created.map(({ id }) => daemon.remove(id)))
    assert.deepEqual(await findRemains(daemon), [])
    const { stdout } = await run('nsenter', [`--net=/run/netns/${world.hostNs}`, 'nft', 'list', 'ruleset'])
    for (const { network: { ipv4 = 'none' } } of created) assert.ok(!stdout.includes(`${ipv4} `), `nothing is known of ${ipv4}`)
  })

  await t.test('a restart of the host', async () => {
    const { id } = await world.sandbox(daemon, full)
    const stopped = await daemon.create({ network: full })
    const pid = await serverPid(daemon)
    await daemon.end('SIGKILL')
    await simulateReboot(daemon, { areMountsKept: false, isRunDirKept: false })
    await world.forget()
    await daemon.start()
    assert.notEqual(await serverPid(daemon), pid)
    const { status, end, network } = await daemon.sandbox(id)
    assert.deepEqual([status, end?.reason, network.ipv4], ['stopped', 'host_restarted', undefined])
    assert.deepEqual((await findRemains(daemon)).filter(line => !line.startsWith('file ')), [])
    const again = await daemon.request<NetworkStatus>('POST', `/v1/sandboxes/${id}/start`)
    assert.equal(again.status, 200, again.text)
    const revived = await world.probed(daemon, await daemon.sandbox(id))
    assert.equal((await revived.probe.ask('tls', { address: outside.web4, name: 'allowed.test' })).status, 200)
    assert.equal(await reach(revived, outside.web4, 5432), 'refused')
    for (const gone of [id, stopped.id]) await daemon.remove(gone)
  })

  await t.test('a daemon that ends without sandboxes', async () => {
    const pid = await serverPid(daemon)
    assert.equal(await daemon.end('SIGTERM'), 0)
    assert.equal(await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => ''), '')
    assert.deepEqual(await world.parts(), [])
    assert.deepEqual((await daemon.leftovers()), [])
  })
})
