/** Sandboxes whose addresses a gateway lends: what they reach with them, and that none stays lent, whoever dies. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { test } from 'node:test'
import { pollUntil } from '../../src/lib/poll.ts'
import type { NetworkDecision } from '../../src/schemas/network.ts'
import { gatewayToken } from '../support/fake-gateway.ts'
import { NetworkWorld, outside, worldHost, type ProbedSandbox } from '../support/network-world.ts'

const node = new URL('../../bin/node24', import.meta.url).pathname
const gatewayFixture = new URL('../support/gateway-fixture.ts', import.meta.url).pathname
const poolSize = 2
const settledMs = 20_000
const echo = 22

/** A gateway on the host of a world. It ends with its standard input. */
function startGateway (world: NetworkWorld): ChildProcessByStdio<Writable, Readable, null> {
  return spawn('nsenter', [`--net=/run/netns/${world.hostNs}`, node, gatewayFixture], { stdio: ['pipe', 'pipe', 'inherit'] })
}

async function talkTo (child: ReturnType<typeof startGateway>) {
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const answer = async () => String((await lines.next()).value)
  const port = Number(await answer())
  const ask = async <T = null>(line: 'leases' | 'away' | 'back'): Promise<T> => {
    child.stdin.write(`${line}\n`)
    return JSON.parse(await answer()) as T
  }
  const leases = async () => new Map(Object.entries(await ask<Record<string, string>>('leases')))
  /** Waits until so many are lent; answers them. */
  const settle = async (count: number) => {
    await pollUntil(async () => (await leases()).size === count, settledMs)
    const lent = await leases()
    assert.equal(lent.size, count, `lent are ${JSON.stringify([...lent])}`)
    return lent
  }
  return { port, ask, leases, settle }
}

test('addresses of a gateway are lent for as long as there are slots with them', async t => {
  // Before those of the world: nothing may run in a namespace that is to go.
  const ends: Array<() => Promise<void>> = []
  t.after(() => Promise.all(ends.map(end => end())))
  const world = await NetworkWorld.start(t)
  const dir = mkdtempSync(join(tmpdir(), 'berth-gateway-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const tokenFile = join(dir, 'token')
  writeFileSync(tokenFile, gatewayToken, { mode: 0o600 })
  const program = startGateway(world)
  ends.push(async () => {
    if (program.exitCode !== null) return
    const exited = once(program, 'exit')
    program.stdin.end()
    await exited
  })
  const gateway = await talkTo(program)
  const daemon = await world.daemon({
    env: {
      BERTH_NETWORK_ADDRESSES: 'gateway',
      BERTH_GATEWAY: `127.0.0.1:${gateway.port}`,
      BERTH_GATEWAY_TOKEN_FILE: tokenFile,
      BERTH_GATEWAY_IPV4_POOL: '10.64.0.0/16',
      BERTH_NETWORK_POOL_SIZE: String(poolSize),
    },
  })
  const reach = async ({ probe }: ProbedSandbox, address: string, port = echo) => (await probe.ask('tcp', { address, port })).outcome
  const leaseOf = async (sandbox: ProbedSandbox) => (await world.linkOf(sandbox)).netns
  const [kept, other] = await Promise.all([world.sandbox(daemon, { egress: 'internet' }), world.sandbox(daemon, { egress: 'internet' })])

  await t.test('a sandbox has the address that was lent to its slot, and speaks with it', async () => {
    const lent = await gateway.settle(2 + poolSize)
    assert.equal(lent.get(await leaseOf(kept)), kept.ipv4)
    assert.equal(lent.get(await leaseOf(other)), other.ipv4)
    const { stdout } = await daemon.exec(kept.id, ['/node', '-p', 'os.networkInterfaces().eth0.filter(({ family }) => family === "IPv4").map(({ cidr }) => cidr).join()'])
    assert.equal(stdout.trim(), `${kept.ipv4}/32`)
  })

  await t.test('what it sends leaves with the host\'s address', async () => {
    assert.equal(await reach(kept, outside.web4), 'open')
    assert.equal(await reach(kept, outside.web6), 'open')
    assert.ok((await world.seen()).includes(`tcp ${outside.web4}:${echo} from ${worldHost.ipv4}`))
    const { addresses } = await kept.probe.ask('lookup', { name: 'allowed.test' })
    assert.ok(addresses.includes(outside.web4))
  })

  await t.test('it reaches no other sandbox, here or on another host, and nobody outside reaches it', async () => {
    await world.outside('ip', 'address', 'add', '10.64.200.5/32', 'dev', 'lo')
    await world.outside('ip', 'route', 'add', `${kept.ipv4}/32`, 'via', worldHost.ipv4)
    assert.equal(await reach(kept, other.ipv4, 4000), 'refused')
    assert.equal(await reach(kept, '10.64.200.5', 9), 'refused')
    assert.equal((await world.probe('outside').ask('tcp', { address: kept.ipv4, port: 4000 })).outcome, 'silent')
    const reasons = async () => (await daemon.request<{ decisions: NetworkDecision[] }>('GET', `/v1/sandboxes/${kept.id}/network/decisions`)).text
    assert.ok(await pollUntil(async () => /"other_sandbox"/.test(await reasons()) && /"forbidden_address"/.test(await reasons()), settledMs), await reasons())
    const allowed = await daemon.request('PUT', `/v1/sandboxes/${kept.id}/network`, { egress: { allow: ['10.64.200.5'] } })
    assert.equal(allowed.status, 400, allowed.text)
  })

  await t.test('an address is given back when its sandbox is deleted', async () => {
    const lease = await leaseOf(other)
    await daemon.remove(other.id)
    const lent = await gateway.settle(1 + poolSize)
    assert.ok(!lent.has(lease))
  })

  await t.test('a daemon that was killed leaves addresses that the next one gives back, but for those of sandboxes', async () => {
    const before = await gateway.settle(1 + poolSize)
    await daemon.restart('SIGKILL')
    assert.equal((await daemon.sandbox(kept.id)).network.ipv4, kept.ipv4)
    assert.ok(await pollUntil(async () => [...(await gateway.leases()).keys()].filter(lease => before.has(lease)).length === 1, settledMs))
    const after = await gateway.settle(1 + poolSize)
    assert.equal(after.get(await leaseOf(kept)), kept.ipv4)
    assert.equal(await reach(kept, outside.web4), 'open')
    assert.equal(await reach(kept, '10.64.200.5', 9), 'refused')
  })

  await t.test('while the gateway is away what is ready is given, then creates are refused, and deletions do not wait for it', async () => {
    await gateway.ask('away')
    const ready = [await daemon.create(), await daemon.create()]
    assert.ok(ready.every(({ network }) => network.ipv4?.startsWith('10.64.3.')))
    const refused = await daemon.request<{ error: { code: string } }>('POST', '/v1/sandboxes', { image: 'berth/base' })
    assert.equal(refused.status, 503)
    assert.match(refused.text, /addresses_unavailable.*BERTH_GATEWAY/)
    for (const { id } of ready) await daemon.remove(id)
    await gateway.ask('back')
    await gateway.settle(1 + poolSize)
  })

  await t.test('what was to be given back when the daemon died is given back by the next', async () => {
    await gateway.ask('away')
    await daemon.remove(kept.id)
    await daemon.end('SIGKILL')
    await gateway.ask('back')
    assert.equal((await gateway.leases()).size, 1 + poolSize)
    assert.equal(await daemon.reclaim(), 0)
    assert.deepEqual([...await gateway.leases()], [])
  })
})
