/** The kernel's packet filter: transactions by libnftables, and the packets that it logs. Needs root. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { test, type TestContext } from 'node:test'
import { BerthError } from '../../src/errors.ts'
import { runCommand } from '../../src/host/command.ts'
import { NflogReader, type LoggedPacket } from '../../src/host/nflog.ts'
import { Nftables, NftablesError } from '../../src/host/nftables.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { RuleQueue } from '../../src/services/network/rule-queue.ts'

const fixture = new URL('../support/nflog-fixture.ts', import.meta.url).pathname

/** A connection and the name of a table of its own, which is gone at the end. */
function build (t: TestContext) {
  const nftables = Nftables.open()
  const table = `berth_test_${randomBytes(4).toString('hex')}`
  t.after(async () => {
    await nftables.run(`add table inet ${table}\ndelete table inet ${table}`)
    nftables.close()
    assert.doesNotMatch((await runCommand('nft', ['list', 'tables'])).stdout, new RegExp(table))
  })
  return { nftables, table, set: `add table inet ${table}\nadd set inet ${table} s { type ipv4_addr; }\n` }
}

async function elements (nftables: Nftables, table: string): Promise<unknown> {
  const listed = await nftables.list(`list set inet ${table} s`) as Array<{ set?: { elem?: unknown[] } }>
  return listed.find(item => item.set)?.set?.elem ?? []
}

async function command (...argv: [string, ...string[]]): Promise<void> {
  const [file, ...args] = argv
  const { exitCode, stderr } = await runCommand(file, args)
  assert.equal(exitCode, 0, `${argv.join(' ')}: ${stderr}`)
}

test('a transaction is in force whole, or not at all', async t => {
  const { nftables, table, set } = build(t)
  await nftables.run(`${set}add element inet ${table} s { 192.0.2.1 }`)
  const failing = nftables.run(`add element inet ${table} s { 192.0.2.2 }\ndelete element inet ${table} s { 192.0.2.9 }`)
  await assert.rejects(failing, (error: unknown) => {
    assert.ok(error instanceof NftablesError)
    assert.match(error.message, /No such file or directory/)
    assert.equal(error.command, `add element inet ${table} s { 192.0.2.2 }`)
    return true
  })
  assert.deepEqual(await elements(nftables, table), ['192.0.2.1'])
})

test('an error is short, whatever the commands are', async t => {
  const { nftables } = build(t)
  await assert.rejects(nftables.run(`nonsense ${'x'.repeat(100_000)}`), (error: unknown) => error instanceof NftablesError && error.message.length < 2000 && error.command.length <= 200)
  await assert.rejects(nftables.list('list set inet berth_test_missing s'), NftablesError)
})

test('calls made at once run one after the other, in their order, and an error belongs to its own call', async t => {
  const { nftables, table, set } = build(t)
  const first = nftables.run(set)
  const calls = Array.from({ length: 40 }, async (_, index) => {
    // Each needs the one before it; every fourth is refused.
    if (index % 4 === 3) return await nftables.run(`delete element inet ${table} s { 192.0.2.200 }`)
    const former = index % 4 === 0 ? '' : `delete element inet ${table} s { 192.0.2.${index} }\n`
    await nftables.run(`${former}add element inet ${table} s { 192.0.2.${index + 1} }`)
  })
  await first
  const results = await Promise.allSettled(calls)
  assert.deepEqual(results.map(({ status }) => status === 'rejected'), results.map((_, index) => index % 4 === 3))
  assert.deepEqual(await elements(nftables, table), Array.from({ length: 10 }, (_, index) => `192.0.2.${index * 4 + 3}`))
})

test('the event loop turns while the kernel works', async t => {
  const { nftables, table, set } = build(t)
  const many = Array.from({ length: 20_000 }, (_, index) => `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`)
  let turns = 0
  let isDone = false
  const count = () => { turns++; if (!isDone) setImmediate(count) }
  const done = nftables.run(`${set}add element inet ${table} s { ${many.join(', ')} }`)
  setImmediate(count)
  await done
  isDone = true
  assert.ok(turns > 20, `${turns} turns`)
  assert.equal((await elements(nftables, table) as unknown[]).length, many.length)
})

test('what another process changes is seen, even a set that is another one by now', async t => {
  const { nftables, table, set } = build(t)
  await nftables.run(`${set}add element inet ${table} s { 192.0.2.1 }`)
  await command('nft', 'add', 'element', 'inet', table, 's', '{ 192.0.2.7 }')
  assert.deepEqual(await elements(nftables, table), ['192.0.2.1', '192.0.2.7'])
  await command('nft', `delete table inet ${table}; add table inet ${table}; add set inet ${table} s { type inet_service; }`)
  await nftables.run(`add element inet ${table} s { 8080 }`)
  assert.deepEqual(await elements(nftables, table), [8080])
  await command('nft', 'delete', 'table', 'inet', table)
  await assert.rejects(nftables.run(`add element inet ${table} s { 8081 }`), /No such file or directory/)
})

test('a closed connection finishes what was asked of it and refuses more', async t => {
  const { nftables, table, set } = build(t)
  const other = Nftables.open()
  const calls = [other.run(set), other.run(`add element inet ${table} s { 192.0.2.1 }`)]
  other.close()
  other.close()
  await assert.rejects(other.run(set), NftablesError)
  await Promise.all(calls)
  assert.deepEqual(await elements(nftables, table), ['192.0.2.1'])
})

test('a host without the library is told what to do', () => {
  assert.throws(() => Nftables.open('libnftables-missing.so.1'), (error: unknown) => {
    assert.ok(error instanceof BerthError)
    assert.deepEqual([error.kind, error.code], ['unavailable', 'nftables_missing'])
    assert.match(error.message, /berth doctor/)
    return true
  })
})

test('rules that someone else removed are all back after the next change', async t => {
  const { nftables, table } = build(t)
  const wanted: string[] = []
  const fullRules = () => `add table inet ${table}\ndelete table inet ${table}\ntable inet ${table} { set s { type ipv4_addr; elements = { ${wanted.join(', ')} }; }; }`
  const queue = new RuleQueue({ nftables, fullRules, logger: { warn () {}, error () {} } })
  const add = async (address: string) => { wanted.push(address); await queue.submit(`add element inet ${table} s { ${address} }`) }
  await Promise.all(['192.0.2.1', '192.0.2.2'].map(add))
  await command('nft', 'delete', 'table', 'inet', table)
  await Promise.all(['192.0.2.3', '192.0.2.4'].map(add))
  assert.deepEqual(await elements(nftables, table), ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4'])
})

test('a logged packet arrives with its prefix, its facts and the device that it came in by', async t => {
  const { nftables, table } = build(t)
  const [group, address] = [randomGroup(), `127.${randomInt(1, 255)}.${randomInt(256)}.${randomInt(1, 255)}`]
  const { packets, reader } = openReader(t, group)
  await nftables.run(`table inet ${table} {
    chain leaves { type filter hook output priority 0; ip daddr ${address} log group ${group} prefix "leaves"; }
    chain arrives { type filter hook input priority 0; ip daddr ${address} log group ${group} prefix "arrives" drop; }
  }`)
  await sendDatagram(address, 5353)
  const packet = { family: 4, protocol: 'udp', source: '127.0.0.1', destination: address, destinationPort: 5353 }
  await waitFor(packets, 2)
  assert.deepEqual(packets, [{ prefix: 'leaves', packet }, { prefix: 'arrives', deviceIndex: 1, device: 'lo', packet }])
  await reader.close()
  const second = openReader(t, group)
  await sendDatagram(address, 5354)
  await waitFor(second.packets, 2)
  assert.equal(packets.length, 2, 'nothing comes to a closed reader')
})

test('a group has one reader, and is free again when that is closed', async t => {
  const group = randomGroup()
  const { reader } = openReader(t, group)
  assert.throws(() => NflogReader.open(group, { onPacket () {} }), { code: 'EPERM' })
  await Promise.all([reader.close(), reader.close()])
  await openReader(t, group).reader.close()
})

test('a reader in a network namespace goes on as nobody, and leaves nothing', async t => {
  const { inner, outer, device, group } = await makeNamespaces(t)
  const program = spawn('nsenter', [`--net=/run/netns/${inner}`, process.execPath, fixture, String(group)], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.after(() => program.kill('SIGKILL'))
  const lines = createInterface(program.stdout)[Symbol.asyncIterator]()
  const next = async () => JSON.parse((await lines.next()).value as string) as { packet?: LoggedPacket }
  assert.deepEqual(await next(), { uid: 65534 })
  await command('ip', 'netns', 'exec', outer, 'bash', '-c', 'echo x > /dev/udp/192.0.2.1/4000; echo x > /dev/udp/2001:db8::1/4001; echo x > /dev/tcp/192.0.2.1/4002 || true')
  const come = [await next(), await next(), await next()].map(({ packet }) => ({ ...packet, deviceIndex: undefined }))
  const known = { prefix: 'berth denied', device, deviceIndex: undefined }
  assert.deepEqual(come, [
    { ...known, packet: { family: 4, protocol: 'udp', source: '192.0.2.2', destination: '192.0.2.1', destinationPort: 4000 } },
    { ...known, packet: { family: 6, protocol: 'udp', source: '2001:db8::2', destination: '2001:db8::1', destinationPort: 4001 } },
    { ...known, packet: { family: 4, protocol: 'tcp', source: '192.0.2.2', destination: '192.0.2.1', destinationPort: 4002 } },
  ])
  program.stdin.end()
  assert.deepEqual(await next(), { isClosed: true })
  assert.deepEqual(await once(program, 'exit'), [0, null])
})

/** Two network namespaces with a wire between them; the inner one refuses and logs UDP and TCP that comes by it. */
async function makeNamespaces (t: TestContext) {
  const name = randomBytes(3).toString('hex')
  const [inner, outer, device, group] = [`berth-t-${name}i`, `berth-t-${name}o`, `bt${name}`, randomGroup()]
  t.after(async () => {
    for (const netns of [inner, outer]) await runCommand('ip', ['netns', 'delete', netns])
    assert.doesNotMatch((await runCommand('ip', ['netns', 'list'])).stdout, new RegExp(name))
  })
  const batch = [
    `netns add ${inner}`,
    `netns add ${outer}`,
    `link add ${device} netns ${inner} type veth peer name eth0 netns ${outer}`,
  ]
  const inside = (address: string, link: string) => [
    `addr add 192.0.2.${address}/24 dev ${link}`, `addr add 2001:db8::${address}/64 dev ${link} nodad`, `link set ${link} up`,
  ]
  const log = `log group ${group} prefix "berth denied"`
  const rules = `table inet t { chain c { type filter hook input priority 0; meta l4proto udp ${log} drop; meta l4proto tcp ${log} reject with tcp reset; }; }`
  for (const [args, input] of [
    [[], batch], [['-n', inner], inside('1', device)], [['-n', outer], inside('2', 'eth0')],
  ] as const) assert.equal((await runCommand('ip', [...args, '-batch', '-'], { input: input.join('\n') })).exitCode, 0)
  await command('ip', 'netns', 'exec', inner, 'nft', rules)
  return { inner, outer, device, group }
}

function openReader (t: TestContext, group: number): { packets: LoggedPacket[], reader: NflogReader } {
  const packets: LoggedPacket[] = []
  const reader = NflogReader.open(group, { onPacket: packet => { packets.push(packet) }, onFailed: error => { throw error } })
  t.after(async () => { await reader.close() })
  return { packets, reader }
}

async function waitFor (packets: readonly LoggedPacket[], count: number): Promise<void> {
  assert.ok(await pollUntil(async () => packets.length >= count, 10_000), `${packets.length} packets of ${count}`)
}

function randomGroup (): number {
  return randomInt(0x1000, 0xffff)
}

async function sendDatagram (address: string, port: number): Promise<void> {
  const socket = createSocket('udp4')
  await new Promise<void>((resolve, reject) => { socket.send('x', port, address, error => { if (error) reject(error); else resolve() }) })
  socket.close()
}
