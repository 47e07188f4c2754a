/** A daemon in the machine's own network namespace, beside what is there, and networks of containers without gVisor. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { globSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { test, type TestContext } from 'node:test'
import { promisify } from 'node:util'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import { makeProbeImage, ProbeClient, probeEntrypoint } from '../support/probe-client.ts'
import { NetworkWorld, outside, worldHost } from '../support/network-world.ts'
import { TestDaemon, type Teardown } from '../support/test-daemon.ts'

const run = promisify(execFile)
const port = 7022

/** What is started last ends first. */
function newestFirst (t: TestContext): Teardown {
  const ends: Array<() => Promise<void>> = []
  t.after(async () => { for (const end of ends) await end() })
  return { after: end => { ends.unshift(end) } }
}

/** Switched on by the daemon for this test, and put back as it was; others may have need of it meanwhile if it was on. */
async function keepForwarding (t: Teardown): Promise<void> {
  // In this order: forwarding sets others with it.
  const paths = globSync(['/proc/sys/net/ipv6/conf/*/accept_ra', '/proc/sys/net/ipv6/conf/all/forwarding', '/proc/sys/net/ipv4/ip_forward'])
  for (const path of paths) {
    const before = await readFile(path, 'latin1')
    t.after(async () => { if (await readFile(path, 'latin1').catch(() => before) !== before) await writeFile(path, before) })
  }
}

/** A namespace with an address that the machine reaches by a link of its own. */
async function neighbour (t: Teardown): Promise<{ ns: string, address: string, denied: string }> {
  const name = `bm${randomBytes(4).toString('hex')}`
  // A /30 of the range for benchmarks (RFC 2544), which no host has by itself.
  const prefix = `198.19.${randomInt(256)}.`
  const base = 4 * randomInt(63)
  const [near, address, denied] = [`${prefix}${base + 1}`, `${prefix}${base + 2}`, `${prefix}${base + 3}`]
  await run('ip', ['netns', 'add', name])
  t.after(async () => { await run('ip', ['netns', 'delete', name]) })
  await run('ip', ['link', 'add', 'name', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name])
  await run('ip', ['address', 'add', `${near}/32`, 'dev', name])
  await run('ip', ['link', 'set', name, 'up'])
  for (const far of [address, denied]) {
    await run('ip', ['route', 'add', `${far}/32`, 'dev', name, 'src', near])
    await run('ip', ['-n', name, 'address', 'add', `${far}/32`, 'dev', 'eth0'])
  }
  for (const words of ['link set lo up', 'link set eth0 up', `route add ${near}/32 dev eth0`]) await run('ip', ['-n', name, ...words.split(' ')])
  return { ns: name, address, denied }
}

const foreignRules = async (table: string): Promise<string> => (await run('nft', ['list', 'table', 'inet', table])).stdout

test('a daemon in the machine\'s own network lets a sandbox reach what it names, and leaves the rules of others alone', async test => {
  const t = newestFirst(test)
  const table = `foreign_${randomBytes(4).toString('hex')}`
  await run('nft', [`add table inet ${table}; add chain inet ${table} f { type filter hook forward priority 10; policy accept; }; add rule inet ${table} f ip saddr 192.0.2.7 drop`])
  t.after(async () => { await run('nft', ['delete', 'table', 'inet', table]) })
  const before = await foreignRules(table)
  await keepForwarding(t)
  const { ns, address, denied } = await neighbour(t)
  const server = ProbeClient.inNamespace(t, ns)
  await server.ask('listen', { protocol: 'tcp', port })
  const image = `dir:${makeProbeImage(t)}`
  const daemon = await TestDaemon.start(t, { args: ['--configure-host'], env: { BERTH_NETWORK_POOL_SIZE: '1' } })
  const create = async (network: object): Promise<{ sandbox: Sandbox, probe: ProbeClient }> => {
    const sandbox = await daemon.create({ image, entrypoint: [...probeEntrypoint], network })
    return { sandbox, probe: ProbeClient.inSandbox(t, sandbox.network.ipv4 ?? '') }
  }
  const [allowed, closed] = await Promise.all([create({ egress: { allow: [address] }, publish: [{ port }] }), create({ egress: 'none' })])
  const { outcome, text } = await allowed.probe.ask('tcp', { address, port })
  assert.equal(outcome, 'open')
  assert.notEqual(text, allowed.sandbox.network.ipv4, 'the machine\'s address is seen, not the sandbox\'s')
  assert.equal((await allowed.probe.ask('tcp', { address: denied, port })).outcome, 'refused')
  assert.equal((await closed.probe.ask('tcp', { address, port })).outcome, 'refused')
  assert.equal((await allowed.probe.ask('tcp', { address: closed.sandbox.network.ipv4 ?? '', port: 4000 })).outcome, 'refused')
  await allowed.probe.ask('listen', { protocol: 'tcp', port })
  const here = ProbeClient.inNamespace(t)
  assert.equal((await here.ask('tcp', { address: '127.0.0.1', port: allowed.sandbox.network.publish[0]?.hostPort ?? 0 })).outcome, 'open')
  await daemon.restart('SIGKILL')
  assert.equal((await allowed.probe.ask('tcp', { address, port })).outcome, 'open')
  assert.equal((await allowed.probe.ask('tcp', { address: denied, port })).outcome, 'refused')
  assert.equal(await foreignRules(table), before)
})

test('a container of runc has the same network as one of gVisor', async test => {
  const world = await NetworkWorld.start(newestFirst(test))
  const daemon = await world.daemon()
  const more = { runtime: 'runc' }
  const [open, named, closed] = await Promise.all([
    world.sandbox(daemon, { egress: 'internet', publish: [{ port }] }, more),
    world.sandbox(daemon, { egress: { allow: ['allowed.test', 'git.test:22'] } }, more),
    world.sandbox(daemon, { egress: 'none' }, more),
  ])
  const host = world.probe('host')
  await host.ask('listen', { protocol: 'tcp', port })
  const reach = async ({ probe }: typeof open, address: string, at = 22) => (await probe.ask('tcp', { address, port: at })).outcome
  assert.deepEqual(await Promise.all([
    reach(open, outside.web4), reach(open, outside.web6), reach(open, outside.private4), reach(open, outside.metadata4), reach(open, worldHost.ipv4, port),
    reach(open, closed.ipv4, 4000), reach(closed, outside.web4), reach(named, outside.web4),
  ]), ['open', 'open', 'refused', 'refused', 'refused', 'refused', 'refused', 'refused'])
  assert.equal((await open.probe.ask('udp', { address: outside.web6, port: 7 })).outcome, 'open')
  assert.equal((await named.probe.ask('tls', { address: outside.web6, name: 'allowed.test' })).status, 200)
  assert.equal((await named.probe.ask('tls', { address: outside.web6, name: 'forbidden.test' })).status, 0)
  assert.deepEqual((await named.probe.ask('lookup', { name: 'git.test' })).addresses, [outside.web6, outside.web4])
  assert.equal(await reach(named, outside.web4), 'open')
  await open.probe.ask('listen', { protocol: 'tcp', port })
  const hostPort = (await daemon.sandbox(open.id)).network.publish[0]?.hostPort ?? 0
  assert.equal((await host.ask('tcp', { address: '127.0.0.1', port: hostPort })).outcome, 'open')
  // Started again, it has another address, and the same port of the host.
  for (const verb of ['stop', 'start']) assert.equal((await daemon.request('POST', `/v1/sandboxes/${open.id}/${verb}`, verb === 'stop' ? { force: true } : undefined)).status, 200)
  const again = await world.probed(daemon, await daemon.sandbox(open.id))
  assert.notEqual(again.ipv4, open.ipv4)
  assert.equal(await reach(again, outside.web4), 'open')
  await again.probe.ask('listen', { protocol: 'tcp', port })
  assert.equal((await host.ask('tcp', { address: '127.0.0.1', port: hostPort })).outcome, 'open')
})
