/** Slots of real network namespaces, in a network namespace that stands for a host. */
import { test, type TestContext } from 'node:test'
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)
const node = fileURLToPath(new URL('../../bin/node24', import.meta.url))
const scenarios = fileURLToPath(new URL('../support/slots-fixture.ts', import.meta.url))

/** A network namespace that stands for a host, and the means to run a scenario as a process in it. */
async function build (t: TestContext) {
  const host = `bslots-${randomBytes(3).toString('hex')}`
  await run('ip', ['netns', 'add', host])
  t.after(async () => {
    await run('ip', ['netns', 'del', host])
    const { stdout } = await run('ip', ['netns', 'list'])
    const left = stdout.split('\n').filter(line => tags.some(tag => line.startsWith(`berth-${tag}-`)))
    assert.deepEqual(left, [], 'no network namespace is left')
  })
  const tags: string[] = []
  const start = (scenario: string, options: object = {}) => {
    const child = spawn('nsenter', [`--net=/run/netns/${host}`, node, scenarios, scenario, JSON.stringify(options)], { stdio: ['pipe', 'pipe', 'inherit'] })
    t.after(() => { child.kill('SIGKILL') })
    return child
  }
  /** Runs a scenario to its end; answers what it says. */
  const play = async (scenario: string, options: object = {}): Promise<Record<string, unknown>> => {
    const child = start(scenario, options)
    const closed = once(child, 'close')
    let text = ''
    for await (const piece of child.stdout) text += String(piece)
    const [exitCode] = await closed
    assert.equal(exitCode, 0, `${scenario} ends well`)
    return JSON.parse(text) as Record<string, unknown>
  }
  const newHostId = async (): Promise<string> => {
    const hostId = `hst_${randomBytes(10).toString('hex')}`
    const { tagOf } = await import('../../src/services/network/network-plan.ts')
    tags.push(tagOf(hostId))
    return hostId
  }
  const ip = async (...args: string[]): Promise<string> => (await run('ip', ['-n', host, ...args])).stdout
  /** That nothing of Berth is in the namespace. */
  const assertClean = async (): Promise<void> => {
    assert.doesNotMatch(await ip('link', 'show'), /bv[0-9a-f]{10}/, 'no link is left')
    assert.doesNotMatch(await ip('address', 'show', 'dev', 'lo'), /lo:[0-9a-f]{6}|10\.200\.|fd00:a1b2/, 'no address is left')
    assert.doesNotMatch(await ip('route', 'show', 'table', 'all'), /10\.200\./, 'no route is left')
  }
  return { host, start, play, newHostId, ip, assertClean }
}

test('twenty sandboxes at once get slots of their own, which reach the gateway by both families', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, assertClean } = await build(t)
  const answer = await play('acquire', { hostId: await newHostId(), size: 4, count: 20 })
  assert.deepEqual(answer, { different: 20, reached4: 20, reached6: 20, hasCounted: true, left: [], counts: { ready: 0, building: 0, quarantined: 20, taken: 0 } })
  await assertClean()
})

test('a slot that is half there is made whole, and one that is half gone is made new', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, assertClean } = await build(t)
  const answer = await play('debris', { hostId: await newHostId() })
  assert.deepEqual(answer, { found: [2, 3, 4, 5], whole: [2, 3, 4, 5, 6], left: [] })
  await assertClean()
})

test('addresses that gVisor takes out of a namespace are put back, as often as one likes', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, assertClean } = await build(t)
  assert.deepEqual(await play('readdress', { hostId: await newHostId() }), { before: true, without: false, after: true, again: true, isOneAddress: true })
  await assertClean()
})

test('a namespace in which a process lives is deleted, and its link when it is looked for again', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, assertClean } = await build(t)
  assert.deepEqual(await play('inhabited', { hostId: await newHostId() }), { lingering: [2], left: [] })
  await assertClean()
})

test('what a daemon that was killed has begun is found by the next, and removed', { timeout: 60_000 }, async (t) => {
  const { play, start, newHostId, assertClean } = await build(t)
  const hostId = await newHostId()
  const child = start('churn', { hostId })
  // It says a word with each round; the kill falls somewhere in the next.
  const blocks: string[] = []
  for await (const block4 of createInterface({ input: child.stdout })) if (blocks.push(block4) === 2) break
  child.kill('SIGKILL')
  await once(child, 'exit')
  assert.deepEqual(await play('reclaim', { hostId }), { block4: blocks[0], foundSome: true, left: [] })
  await assertClean()
})

test('daemons on one host get blocks that do not overlap, and keep them', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, assertClean } = await build(t)
  const hostIds = [await newHostId(), await newHostId(), await newHostId(), await newHostId()]
  const answer = await play('claims', { hostIds, pool4: '10.200.0.0/19', pool6: 'fd00:a1b2::/64' })
  assert.deepEqual(answer, { blocks: 2, refused: ['network_pools_exhausted', 'network_pools_exhausted'], isKept: true, isFreed: true })
  await assertClean()
})

test('a daemon that came to hold two blocks gives both back, in both families', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, assertClean } = await build(t)
  await play('claimTwice', { hostId: await newHostId(), pool4: '10.200.0.0/19', pool6: 'fd00:a1b2::/64' })
  await assertClean()
})

test('addresses of blocks that nobody holds are in nobody\'s way', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, ip, assertClean } = await build(t)
  await ip('link', 'set', 'lo', 'up')
  for (const block of [0, 1]) await ip('-6', 'address', 'add', `fd00:a1b2::${block}:1/128`, 'dev', 'lo', 'nodad')
  const answer = await play('claims', { hostIds: [await newHostId(), await newHostId(), await newHostId()], pool4: '10.200.0.0/19', pool6: 'fd00:a1b2::/64' })
  assert.deepEqual(answer, { blocks: 2, refused: ['network_pools_exhausted'], isKept: true, isFreed: true })
  await assertClean()
})

test('a block that the host uses, or has a way to, is left alone', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, ip, assertClean } = await build(t)
  await ip('link', 'set', 'lo', 'up')
  await ip('link', 'add', 'uplink', 'type', 'veth', 'peer', 'name', 'outside')
  await ip('link', 'set', 'uplink', 'up')
  await ip('address', 'add', '172.31.0.1/24', 'dev', 'uplink')
  await ip('route', 'add', '172.31.16.0/22', 'dev', 'uplink', 'table', '52')
  await ip('route', 'add', '0.0.0.0/1', 'dev', 'uplink')
  await ip('-6', 'route', 'add', 'fd00:a1b2::2:0/120', 'dev', 'uplink')
  const answer = await play('claims', { hostIds: [await newHostId(), await newHostId()], pool4: '172.31.0.0/18', pool6: 'fd00:a1b2::/64' })
  assert.deepEqual(answer, { blocks: 1, refused: ['network_pools_exhausted'], isKept: true, isFreed: true })
  await ip('link', 'del', 'uplink')
  await assertClean()
})

test('a host without IPv6 gives sandboxes IPv4 alone', { timeout: 60_000 }, async (t) => {
  const { play, host, newHostId, assertClean } = await build(t)
  await run('nsenter', [`--net=/run/netns/${host}`, 'sh', '-c', 'for d in all default; do echo 1 >/proc/sys/net/ipv6/conf/$d/disable_ipv6; done'])
  assert.deepEqual(await play('acquire', { hostId: await newHostId(), size: 0, count: 2 }),
    { different: 2, reached4: 2, reached6: 0, hasCounted: true, left: [], counts: { ready: 0, building: 0, quarantined: 2, taken: 0 } })
  await assertClean()
})

test('bandwidth is limited at both ends, changed, and freed again', { timeout: 60_000 }, async (t) => {
  const { play, newHostId, assertClean } = await build(t)
  assert.deepEqual(await play('bandwidth', { hostId: await newHostId() }), {
    limited: [64_000, 100_000_000_000],
    changed: [0, 5_000_000],
    freed: [0, 0],
    freedAgain: [0, 0],
    isSlow: true,
  })
  await assertClean()
})

test('a host is made to forward by the kernel\'s own settings', { timeout: 60_000 }, async (t) => {
  const { play, ip } = await build(t)
  await ip('link', 'add', 'uplink', 'type', 'veth', 'peer', 'name', 'outside')
  for (const device of ['uplink', 'outside']) await ip('link', 'set', device, 'up')
  await ip('-6', 'route', 'add', 'default', 'via', 'fe80::99', 'dev', 'uplink', 'proto', 'ra')
  const { before, changes, after, acceptRa, changesAgain } = await play('forwarding')
  assert.deepEqual(before, { ipv4: false, ipv6: false })
  assert.deepEqual(changes, ['net.ipv4.ip_forward=1', 'net.ipv6.conf.uplink.accept_ra=2', 'net.ipv6.conf.all.forwarding=1'])
  assert.deepEqual({ after, acceptRa, changesAgain }, { after: { ipv4: true, ipv6: true }, acceptRa: '2', changesAgain: [] })
})

test('firewalls of others that drop what sandboxes send are found, until they let it pass', { timeout: 60_000 }, async (t) => {
  const { play, host } = await build(t)
  const inside = (...command: string[]) => run('nsenter', [`--net=/run/netns/${host}`, ...command])
  assert.deepEqual(await play('obstacles'), { obstacles: [] })
  await inside('nft', 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; add chain ip filter DOCKER-USER; add rule ip filter FORWARD jump DOCKER-USER; ' +
    'add table inet wall; add chain inet wall pass { type filter hook forward priority 0; policy drop; }; add chain inet wall other { type filter hook forward priority 1; policy accept; }')
  const { obstacles } = await play('obstacles') as { obstacles: Array<{ chain: string, commands: string[] }> }
  assert.deepEqual(obstacles.map(({ chain }) => chain).sort(), ['inet wall pass', 'ip filter FORWARD'])
  assert.deepEqual(obstacles.find(({ chain }) => chain.startsWith('ip '))?.commands, ['iptables -I DOCKER-USER -i bv+ -j ACCEPT', 'iptables -I DOCKER-USER -o bv+ -j ACCEPT'])
  for (const command of obstacles.find(({ chain }) => chain.startsWith('inet '))?.commands ?? []) await inside('sh', '-c', command)
  // What iptables makes of its commands.
  await inside('nft', 'insert rule ip filter DOCKER-USER iifname "bv*" counter accept; insert rule ip filter DOCKER-USER oifname "bv*" counter accept')
  assert.deepEqual(await play('obstacles'), { obstacles: [] })
})
