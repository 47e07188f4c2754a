import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { DecisionReason, Egress } from '../../src/schemas/network.ts'
import { servicePorts } from '../../src/services/network/network-plan.ts'
import {
  addSandbox, changeSandbox, fullRules, openAddress, removeSandbox, type OpenedAddress, type PublishedRule, type RuleChange, type SandboxRules,
} from '../../src/services/network/ruleset.ts'
import { eventually } from '../support/host-surgery.ts'
import type { Outcome } from '../support/packet-agent.ts'
import { bystander, far, host, outside, PacketWorld, type PacketAgent, type WorldSandbox } from '../support/packet-world.ts'
import type { Teardown } from '../support/test-daemon.ts'

const apiPort = 8080
const published: PublishedRule[] = [
  { port: 7000, hostPort: 18_000, protocol: 'tcp', isForwarded: true },
  { port: 7001, hostPort: 18_001, protocol: 'udp', isForwarded: true },
  // Held by the network server: the filter has nothing to do with it.
  { port: 7000, hostPort: 18_002, protocol: 'tcp', isForwarded: false },
]
/** How long to wait for what never comes; what comes does so within a millisecond. */
const silenceMs = 250

const ends: (() => Promise<void> | void)[] = []
const teardown: Teardown = { after: end => { ends.unshift(end as () => Promise<void>) } }
let world: PacketWorld
/** By what its policy is; `server` publishes ports; `spoofer` has foreign addresses too; `stranger` belongs to another daemon of the host. */
let sandboxes: Record<'none' | 'internet' | 'rules' | 'open' | 'server' | 'spoofer' | 'stranger', WorldSandbox>
let outsider: PacketAgent
let hostAgent: PacketAgent
let plain: PacketAgent
const current = new Map<WorldSandbox, SandboxRules>()

const policies: Record<keyof typeof sandboxes, Egress> = {
  none: 'none',
  internet: 'internet',
  rules: { allow: [`${outside.web4}`, '203.0.113.0/28:22', `[${outside.web6}]:5432`, `${outside.private4}:5432`, 'fd99::/64', 'git.example.com:22'], deny: ['203.0.113.8/29:25', outside.other6] },
  open: { allow: ['internet', outside.private4], deny: [outside.other4, 'evil.example'] },
  server: 'none',
  spoofer: 'internet',
  stranger: 'internet',
}

const rulesFor = (name: keyof typeof sandboxes): SandboxRules =>
  world.rulesOf(sandboxes[name].slot, policies[name], { publish: name === 'server' ? published : [], hasGateway: name === 'internet' })

before(async () => {
  world = await PacketWorld.start(teardown)
  const [none, internet, rules, open, server, spoofer, stranger] = await Promise.all([
    world.sandbox(2), world.sandbox(3), world.sandbox(4), world.sandbox(5), world.sandbox(6), world.sandbox(7), world.sandbox(2, world.otherPlan),
  ])
  sandboxes = { none, internet, rules, open, server, spoofer, stranger }
  outsider = world.outsideAgent
  hostAgent = world.hostAgent
  plain = world.bystanderAgent
  const { gateway4, gateway6 } = world.plan
  await Promise.all([
    ...[22, 25, 80, 443, 5432].map(port => outsider.ask('listen', { protocol: 'tcp', address: '::', port })),
    ...Object.values(outside).flatMap(address => [53, 443, 5353].map(port => outsider.ask('listen', { protocol: 'udp', address, port }))),
    ...[22, 80, apiPort].map(port => hostAgent.ask('listen', { protocol: 'tcp', address: '::', port })),
    hostAgent.ask('listen', { protocol: 'udp', address: host.ipv4, port: 5353 }),
    ...[gateway4, gateway6].flatMap(address => [
      hostAgent.ask('listen', { protocol: 'udp', address, port: servicePorts.dns }),
      ...[443, ...Object.values(servicePorts)].map(port => hostAgent.ask('listen', { protocol: 'tcp', address, port })),
    ]),
    ...Object.values(sandboxes).flatMap(({ agent, slot }) => [
      agent.ask('listen', { protocol: 'tcp', address: '::', port: 7000 }),
      ...[slot.ipv4, slot.ipv6].map(address => agent.ask('listen', { protocol: 'udp', address, port: 7001 })),
    ]),
    world.ip(spoofer.slot.netns, [`address add ${none.slot.ipv4}/32 dev eth0`, `address add ${none.slot.ipv6}/128 dev eth0 nodad`, 'address add 10.9.9.9/32 dev eth0', 'address add 2001:db8:9::9/128 dev eth0 nodad']),
  ])
  for (const name of ['none', 'internet', 'rules', 'open', 'server', 'spoofer'] as const) current.set(sandboxes[name], rulesFor(name))
  await world.load(fullRules(world.plan, { apiPort, sandboxes: current.values(), opened: [] }))
  await world.load(fullRules(world.otherPlan, { sandboxes: [world.rulesOf(stranger.slot, policies.stranger)], opened: [] }))
})

after(async () => { for (const end of ends) await end() })

type Place = keyof typeof sandboxes | 'outsider' | 'host' | 'bystander'
const agentAt = (place: Place): PacketAgent => place === 'outsider' ? outsider : place === 'host' ? hostAgent : place === 'bystander' ? plain : sandboxes[place].agent

/** The reasons whose counters grew while something was done. */
async function reasonsOf (work: () => Promise<unknown>, plan = world.plan): Promise<DecisionReason[]> {
  const earlier = await world.counters(plan)
  await work()
  const later = await world.counters(plan)
  return (Object.keys(later) as DecisionReason[]).filter(reason => (later[reason]?.packets ?? 0) > (earlier[reason]?.packets ?? 0))
}

async function apply ({ now, later }: RuleChange): Promise<void> {
  for (const commands of [now, ...later]) if (commands !== '') await world.load(commands)
}

async function change (sandbox: WorldSandbox, egress: Egress, options: { publish?: PublishedRule[], opened?: OpenedAddress[] } = {}): Promise<void> {
  const wanted = world.rulesOf(sandbox.slot, egress, options)
  const known = current.get(sandbox)
  assert.ok(known !== undefined)
  await apply(changeSandbox(world.plan, known, wanted, options.opened))
  current.set(sandbox, wanted)
}

/** What happens to connections: `address` may be a word for one that only the world knows. */
const attempts: [from: Place, protocol: 'tcp' | 'udp', address: string, port: number, expected: Outcome, counter?: DecisionReason, greeting?: string][] = [
  // internet: what is public, through the host's own address.
  ['internet', 'tcp', outside.web4, 5432, 'open', undefined, host.ipv4],
  ['internet', 'tcp', outside.web6, 5432, 'open', undefined, host.ipv6],
  ['internet', 'tcp', outside.web4, 443, 'open'],
  ['internet', 'udp', outside.web4, 5353, 'open', undefined, host.ipv4],
  ['internet', 'udp', outside.web6, 443, 'open', undefined, host.ipv6],
  ['internet', 'tcp', outside.private4, 22, 'refused', 'private_address'],
  ['internet', 'udp', outside.private6, 5353, 'refused', 'private_address'],
  ['internet', 'tcp', outside.metadata4, 80, 'refused', 'forbidden_address'],
  ['internet', 'tcp', outside.metadata6, 80, 'refused', 'forbidden_address'],
  ['internet', 'udp', outside.alibaba4, 5353, 'refused', 'forbidden_address'],
  // An address of the pool that nobody has.
  ['internet', 'tcp', '10.200.200.200', 80, 'refused', 'forbidden_address'],
  ['internet', 'tcp', 'fd00:a1b2::77:7', 80, 'refused', 'forbidden_address'],
  // none.
  ['none', 'tcp', outside.web4, 443, 'refused', 'egress_none'],
  ['none', 'udp', outside.web6, 5353, 'refused', 'egress_none'],
  ['none', 'tcp', outside.metadata4, 80, 'refused', 'forbidden_address'],
  // rules.
  ['rules', 'tcp', outside.web4, 22, 'open'],
  ['rules', 'udp', outside.web4, 5353, 'open'],
  ['rules', 'tcp', outside.web4, 25, 'refused', 'rule'],
  ['rules', 'tcp', outside.other4, 22, 'refused', 'no_rule'],
  ['rules', 'tcp', outside.web6, 5432, 'open'],
  ['rules', 'tcp', outside.web6, 22, 'refused', 'no_rule'],
  ['rules', 'tcp', outside.other6, 22, 'refused', 'rule'],
  ['rules', 'tcp', outside.private4, 5432, 'open'],
  ['rules', 'tcp', outside.private4, 22, 'refused', 'private_address'],
  ['rules', 'udp', outside.private6, 5353, 'open'],
  // Domains are among its rules: web ports go to the proxy, and QUIC nowhere but where an address says so.
  ['rules', 'tcp', outside.other4, 443, 'open', undefined, 'ipv4 of rules'],
  ['rules', 'tcp', outside.other6, 443, 'open', undefined, 'ipv6 of rules'],
  ['rules', 'tcp', outside.web4, 80, 'open', undefined, 'ipv4 of rules'],
  ['rules', 'tcp', outside.metadata4, 80, 'refused', 'forbidden_address'],
  ['rules', 'udp', outside.web4, 443, 'open'],
  ['rules', 'udp', outside.other4, 443, 'refused', 'no_rule'],
  // rules with internet.
  ['open', 'tcp', outside.web4, 22, 'open'],
  ['open', 'tcp', outside.other4, 22, 'refused', 'rule'],
  ['open', 'tcp', outside.private4, 22, 'open'],
  ['open', 'tcp', outside.private6, 22, 'refused', 'private_address'],
  ['open', 'tcp', outside.web4, 443, 'open', undefined, 'ipv4 of open'],
  ['open', 'udp', outside.web4, 443, 'refused', 'no_rule'],
  ['open', 'udp', outside.web6, 5353, 'open'],
  // Other sandboxes, of this daemon and of another.
  ['internet', 'tcp', 'ipv4 of server', 7000, 'refused', 'other_sandbox'],
  ['internet', 'udp', 'ipv6 of server', 7001, 'refused', 'other_sandbox'],
  ['rules', 'tcp', 'ipv4 of internet', 7000, 'refused', 'other_sandbox'],
  ['internet', 'tcp', 'ipv4 of stranger', 7000, 'refused', 'forbidden_address'],
  ['internet', 'tcp', 'ipv6 of stranger', 7000, 'refused', 'forbidden_address'],
  // The host.
  ['internet', 'tcp', host.ipv4, 22, 'refused', 'host_port'],
  ['internet', 'tcp', host.ipv6, 22, 'refused', 'host_port'],
  ['internet', 'tcp', host.private4, 22, 'refused', 'host_port'],
  ['internet', 'udp', host.ipv4, 5353, 'refused', 'host_port'],
  ['rules', 'tcp', host.ipv4, 80, 'refused', 'host_port'],
  ['open', 'tcp', host.ipv6, 443, 'refused', 'host_port'],
  ['internet', 'tcp', host.ipv4, 18_000, 'refused', 'host_port'],
  ['internet', 'udp', host.ipv6, 18_001, 'refused', 'host_port'],
  ['server', 'tcp', host.ipv4, 18_000, 'refused', 'host_port'],
  ['internet', 'tcp', 'gateway4', 22, 'refused', 'host_port'],
  ['internet', 'tcp', 'gateway6', 443, 'refused', 'host_port'],
  ['internet', 'tcp', 'gateway4 of stranger', 53, 'open', undefined, 'ipv4 of internet'],
  ['internet', 'tcp', 'gateway4 of stranger', 22, 'refused', 'host_port'],
  // What the gateway serves.
  ['none', 'udp', 'gateway4', 53, 'open', undefined, 'ipv4 of none'],
  ['none', 'tcp', 'gateway6', 53, 'open', undefined, 'ipv6 of none'],
  ['none', 'udp', outside.dns4, 53, 'open', undefined, 'ipv4 of none'],
  ['internet', 'udp', outside.dns6, 53, 'open', undefined, 'ipv6 of internet'],
  ['internet', 'tcp', outside.dns4, 53, 'open', undefined, 'ipv4 of internet'],
  ['internet', 'udp', outside.metadata4, 53, 'open', undefined, 'ipv4 of internet'],
  ['rules', 'tcp', 'gateway4', 443, 'refused', 'host_port'],
  ['internet', 'tcp', 'gateway4', apiPort, 'open', undefined, 'ipv4 of internet'],
  ['internet', 'tcp', 'gateway6', apiPort, 'open', undefined, 'ipv6 of internet'],
  ['none', 'tcp', 'gateway4', apiPort, 'refused', 'host_port'],
  ['rules', 'tcp', 'gateway6', apiPort, 'refused', 'host_port'],
  // Into sandboxes.
  ['host', 'tcp', 'ipv4 of none', 7000, 'open'],
  ['host', 'tcp', 'ipv6 of none', 7000, 'open'],
  ['host', 'udp', 'ipv4 of none', 7001, 'open'],
  ['outsider', 'tcp', 'ipv4 of internet', 7000, 'silent', 'unsolicited'],
  ['outsider', 'udp', 'ipv6 of internet', 7001, 'silent', 'unsolicited'],
  ['outsider', 'tcp', 'ipv4 of server', 7000, 'silent', 'unsolicited'],
  ['outsider', 'tcp', host.ipv4, 18_000, 'open', undefined, '198.51.100.1'],
  ['outsider', 'tcp', host.ipv6, 18_000, 'open', undefined, '2001:db8:ff::1'],
  ['outsider', 'udp', host.ipv4, 18_001, 'open', undefined, '198.51.100.1'],
  ['outsider', 'tcp', host.ipv4, 18_002, 'refused'],
  ['bystander', 'tcp', host.ipv4, 18_000, 'open', undefined, bystander],
  ['host', 'tcp', host.ipv4, 18_000, 'open', undefined, host.ipv4],
  ['host', 'tcp', host.ipv6, 18_000, 'open', undefined, host.ipv6],
  ['host', 'udp', host.private4, 18_001, 'open', undefined, host.private4],
  ['host', 'tcp', '127.0.0.1', 18_000, 'refused'],
  // What is not ours.
  ['outsider', 'tcp', host.ipv4, 22, 'open'],
  ['bystander', 'tcp', outside.metadata4, 80, 'open', undefined, bystander],
  ['bystander', 'tcp', outside.web4, 443, 'open', undefined, bystander],
  ['bystander', 'udp', outside.dns4, 53, 'open', undefined, bystander],
  ['bystander', 'tcp', host.ipv4, 22, 'open', undefined, bystander],
  ['host', 'tcp', outside.metadata4, 80, 'open'],
  ['host', 'tcp', 'gateway4', 443, 'open', undefined, 'gateway4'],
  ['bystander', 'tcp', 'ipv4 of internet', 7000, 'silent', 'unsolicited'],
  // Another daemon's sandbox, which its own rules keep in; ours do if those are gone.
  ['stranger', 'tcp', outside.web4, 22, 'open'],
  ['stranger', 'tcp', 'ipv4 of internet', 7000, 'refused', 'forbidden_address'],
  ['stranger', 'tcp', host.ipv4, 18_000, 'refused', 'host_port'],
]

/** `ipv4 of server`, `gateway6`, `gateway4 of stranger`, or an address. */
function addressOf (words: string): string {
  const [kind = '', name] = words.split(' of ') as [string, keyof typeof sandboxes | undefined]
  if (kind === 'gateway4' || kind === 'gateway6') return name === undefined ? world.plan[kind] : world.otherPlan[kind]
  return name !== undefined && (kind === 'ipv4' || kind === 'ipv6') ? sandboxes[name].slot[kind] : words
}

for (const [from, protocol, words, port, expected, counter, greeting] of attempts) {
  test(`${from}: ${protocol} to ${words} port ${port} is ${expected}${counter === undefined ? '' : `, ${counter}`}${greeting === undefined ? '' : `, as ${greeting}`}`, async () => {
    let outcome, seenAs
    const connect = async (): Promise<unknown> => ({ outcome, greeting: seenAs } = await agentAt(from).ask(protocol, { address: addressOf(words), port, waitMs: expected === 'silent' ? silenceMs : 5000 }))
    let foreignReasons
    const reasons = await reasonsOf(async () => { foreignReasons = await reasonsOf(connect, world.otherPlan) })
    assert.equal(outcome, expected)
    const counted = counter === undefined ? [] : [counter]
    assert.deepEqual({ reasons, foreignReasons }, from === 'stranger' ? { reasons: [], foreignReasons: counted } : { reasons: counted, foreignReasons: [] })
    if (greeting !== undefined) assert.equal(seenAs, addressOf(greeting))
  })
}

test('without the rules of the other daemon, ours keep its sandboxes out', async () => {
  const { stranger, internet } = sandboxes
  await world.load(`delete table inet ${world.otherPlan.table}`)
  const direct = await reasonsOf(async () => assert.equal((await stranger.agent.ask('tcp', { address: internet.slot.ipv4, port: 7000, waitMs: silenceMs })).outcome, 'silent'))
  assert.deepEqual(direct, ['unsolicited'])
  const throughHost = await reasonsOf(async () => assert.equal((await stranger.agent.ask('tcp', { address: host.ipv4, port: 18_000, waitMs: 5000 })).outcome, 'refused'))
  assert.deepEqual(throughHost, [], 'its connection ends at the host, where nothing listens')
})

const foreign: [protocol: 'tcp' | 'udp', address: string, localAddress: string, port: number][] = [
  ['tcp', outside.web4, 'ipv4 of none', 22], ['tcp', outside.web4, '10.9.9.9', 22], ['udp', outside.web4, 'ipv4 of none', 5353], ['udp', 'gateway4', '10.9.9.9', 53],
  ['tcp', outside.web6, 'ipv6 of none', 22], ['udp', outside.web6, '2001:db8:9::9', 5353], ['udp', 'gateway6', 'ipv6 of none', 53],
]
for (const [protocol, address, localAddress, port] of foreign) {
  test(`${protocol} to ${address} with the foreign address ${localAddress} vanishes`, async () => {
    const reasons = await reasonsOf(async () => {
      const { outcome } = await sandboxes.spoofer.agent.ask(protocol, { address: addressOf(address), port, localAddress: addressOf(localAddress), waitMs: silenceMs })
      assert.equal(outcome, 'silent')
    })
    assert.deepEqual(reasons, ['spoofed_source'])
  })
}

const pings: [from: keyof typeof sandboxes, address: string, isAnswered: boolean, counter?: DecisionReason][] = [
  ['internet', outside.web4, true], ['internet', outside.web6, true], ['internet', outside.private4, false, 'private_address'], ['none', outside.web4, false, 'egress_none'],
  ['rules', outside.web4, true], ['rules', outside.web6, false, 'no_rule'], ['rules', outside.private6, true], ['rules', outside.other6, false, 'rule'],
  ['none', 'gateway4', true], ['none', 'gateway6', true], ['internet', host.ipv4, false, 'host_port'], ['internet', 'ipv4 of none', false, 'other_sandbox'],
]
for (const [from, address, isAnswered, counter] of pings) {
  test(`${from}: a ping of ${address} is ${isAnswered ? 'answered' : 'not answered'}`, async () => {
    const reasons = await reasonsOf(async () => {
      const answered = await world.in(sandboxes[from].slot.netns, 'busybox', 'ping', ...address.includes('6') || address.includes('::') ? ['-6'] : [], '-c1', '-W1', addressOf(address)).then(() => true, () => false)
      assert.equal(answered, isAnswered)
    })
    assert.deepEqual(reasons, counter === undefined ? [] : [counter])
  })
}

test('errors about its flows reach a sandbox: a closed port, and a link that takes only small packets', async () => {
  const { agent } = sandboxes.internet
  await world.farAgent.ask('listen', { protocol: 'tcp', address: '0.0.0.0', port: 22 })
  const reasons = await reasonsOf(async () => {
    assert.equal((await agent.ask('udp', { address: outside.web4, port: 9, waitMs: 5000 })).outcome, 'refused')
    const { outcome, flow } = await agent.ask('tcp', { address: far, port: 22, waitMs: 5000 })
    assert.equal(outcome, 'open')
    await agent.ask('send', { flow, text: 'x'.repeat(200_000) })
    await eventually(async () => (await agent.ask('status', { flow })).received > 200_000, 'all of it came back')
  })
  assert.deepEqual(reasons, [])
})

/** Whether bytes keep coming. */
async function isFlowing (agent: PacketAgent, flow: number): Promise<boolean> {
  const { received } = await agent.ask('status', { flow })
  await delay(60)
  return (await agent.ask('status', { flow })).received > received
}

const cuts: [what: string, protocol: 'tcp' | 'udp', address: string, egress: Egress, counter: DecisionReason][] = [
  ['none', 'tcp', outside.web4, 'none', 'egress_none'],
  ['none', 'udp', outside.web4, 'none', 'egress_none'],
  ['none', 'udp', outside.web6, 'none', 'egress_none'],
  ['rules without it', 'tcp', outside.web6, { allow: [outside.web4] }, 'no_rule'],
  ['rules without it', 'udp', outside.web4, { allow: [outside.other4] }, 'no_rule'],
  ['rules that deny its port', 'udp', outside.web4, { allow: ['internet'], deny: [`${outside.web4}:5353`] }, 'rule'],
]
for (const [what, protocol, address, egress, counter] of cuts) {
  test(`a ${protocol} flow from ${address}, to which the sandbox adds nothing, ends with a change to ${what}`, async () => {
    const { internet } = sandboxes
    const port = protocol === 'tcp' ? 5432 : 5353
    const { flow } = await internet.agent.ask(protocol, { address, port, waitMs: 5000 })
    await internet.agent.ask('send', { flow, text: 'stream' })
    assert.ok(await isFlowing(internet.agent, flow))
    const reasons = await reasonsOf(async () => {
      await change(internet, egress)
      await eventually(async () => !await isFlowing(internet.agent, flow), 'nothing comes any more')
    })
    assert.deepEqual(reasons, [counter])
    await internet.agent.ask('send', { flow, text: 'more' })
    if (protocol === 'tcp') await eventually(async () => (await internet.agent.ask('status', { flow })).isClosed, 'the connection is reset')
    await world.quiet()
    await change(internet, 'internet')
    assert.equal((await internet.agent.ask(protocol, { address, port, waitMs: 5000 })).outcome, 'open')
  })
}

test('datagrams that a sandbox sends end with the policy that let them, and others go on', async () => {
  const { internet } = sandboxes
  const [one, two] = await Promise.all([outside.web4, outside.other4].map(address => internet.agent.ask('udp', { address, port: 5353, waitMs: 5000 })))
  assert.ok(one && two)
  await internet.agent.ask('pour', { flow: one.flow })
  await internet.agent.ask('pour', { flow: two.flow })
  const reasons = await reasonsOf(async () => {
    await change(internet, { allow: [outside.other4] })
    await eventually(async () => !await isFlowing(internet.agent, one.flow), 'the one has ended')
    assert.ok(await isFlowing(internet.agent, two.flow))
  })
  assert.deepEqual(reasons, ['no_rule'])
  await world.quiet()
  await change(internet, 'internet')
})

test('a flow from before the proxy ends where names are denied', async () => {
  const { internet } = sandboxes
  const { flow, outcome } = await internet.agent.ask('tcp', { address: outside.web4, port: 443, waitMs: 5000 })
  assert.equal(outcome, 'open')
  await change(internet, { allow: ['internet'], deny: ['evil.example'] })
  await internet.agent.ask('send', { flow, text: 'more' })
  await eventually(async () => (await internet.agent.ask('status', { flow })).isClosed, 'the connection is reset')
  await change(internet, 'internet')
})

test('entries that contain and overlap each other may come and go in any order', async () => {
  const { rules: sandbox } = sandboxes
  const lists: string[][] = [
    ['10.99.0.0/16', '10.99.0.1', '10.99.0.0/24:22', '10.99.0.0/16:22', '10.99.0.1:22', 'fd99::/64', 'fd99::1', '[fd99::/64]:22'],
    ['10.99.0.0/24', '10.99.0.0/16:22', 'fd99::/65', '[fd99::1]:22'],
    ['10.99.0.0/15', '10.99.0.0/20:22', '10.99.0.1:80', 'fd99::/32'],
    ['10.99.0.1', '10.99.0.2', '10.99.0.1:22', 'fd99::1'],
    [],
  ]
  for (const allow of [...lists, ...lists.toReversed(), lists[1] ?? [], lists[3] ?? []]) {
    await change(sandbox, { allow, deny: ['0.0.0.0/0:25', '10.0.0.0/8:25', '::/0'] })
    const { outcome } = await sandbox.agent.ask('tcp', { address: outside.private4, port: 22, waitMs: 5000 })
    assert.equal(outcome, allow.length > 0 ? 'open' : 'refused', allow.join())
  }
  await change(sandbox, policies.rules)
})

test('a published port that is taken back ends its flows, from outside and from the host', async () => {
  const { server } = sandboxes
  const flows = await Promise.all([
    { agent: outsider, protocol: 'tcp' as const, address: host.ipv4, port: 18_000 },
    { agent: outsider, protocol: 'tcp' as const, address: host.ipv6, port: 18_000 },
    { agent: outsider, protocol: 'udp' as const, address: host.ipv4, port: 18_001 },
    { agent: hostAgent, protocol: 'tcp' as const, address: host.ipv4, port: 18_000 },
  ].map(async ({ agent, protocol, address, port }) => ({ agent, protocol, address, port, ...await agent.ask(protocol, { address, port, waitMs: 5000 }) })))
  for (const { agent, flow } of flows) {
    await agent.ask('send', { flow, text: 'stream' })
    assert.ok(await isFlowing(agent, flow))
  }
  await change(server, policies.server, { publish: published.slice(2) })
  for (const { agent, flow } of flows) await eventually(async () => !await isFlowing(agent, flow), 'nothing comes any more')
  for (const { agent, protocol, address, port } of flows) assert.notEqual((await agent.ask(protocol, { address, port, waitMs: silenceMs })).outcome, 'open')
  assert.equal((await hostAgent.ask('tcp', { address: server.slot.ipv4, port: 7000, waitMs: 5000 })).outcome, 'open', 'the host reaches the sandbox itself')
  await world.quiet()
  await change(server, policies.server, { publish: published })
  assert.equal((await outsider.ask('tcp', { address: host.ipv4, port: 18_000, waitMs: 5000 })).outcome, 'open')
})

const openElements = async (): Promise<string> => JSON.stringify(await hostAgent.ask('list', { what: `set inet ${world.plan.table} opened4` }))

test('an opened address takes new connections for its time, and those that run go on until it is closed', async () => {
  const { rules: { slot, agent } } = sandboxes
  const connect = async (port = 22) => await agent.ask('tcp', { address: outside.other4, port, waitMs: 5000 })
  const opened = (expiresInMs: number): OpenedAddress => ({ slot, address: outside.other4, port: 22, expiresInMs })
  assert.equal((await connect()).outcome, 'refused')
  await world.load(openAddress(world.plan, opened(600_000)))
  await world.load(openAddress(world.plan, opened(2000)))
  assert.match(await openElements(), /"timeout":2,"expires":[0-2][,}]/, 'opening again gives it that time')
  const running = await connect()
  assert.equal(running.outcome, 'open')
  assert.equal((await connect(5432)).outcome, 'refused', 'another port is not open')
  assert.equal((await sandboxes.none.agent.ask('tcp', { address: outside.other4, port: 22, waitMs: 5000 })).outcome, 'refused', 'nor is it for others')
  await eventually(async () => !(await openElements()).includes(outside.other4), 'its time is over')
  assert.deepEqual(await reasonsOf(async () => assert.equal((await connect()).outcome, 'refused')), ['no_rule'])
  await agent.ask('send', { flow: running.flow, text: 'stream' })
  assert.ok(await isFlowing(agent, running.flow), 'what runs goes on')
  await world.load(fullRules(world.plan, { apiPort, sandboxes: current.values(), opened: [opened(0)] }))
  assert.ok(await isFlowing(agent, running.flow), 'also after all rules were loaded anew')
  const known = [opened(0), { slot, address: outside.web6, port: 22, expiresInMs: 9 }]
  await change(sandboxes.rules, { allow: [outside.web4, 'git.example.com:22'], deny: [] }, { opened: known })
  assert.ok(await isFlowing(agent, running.flow), 'an entry that may have opened it is still there')
  await change(sandboxes.rules, { allow: [outside.web4] }, { opened: known })
  await eventually(async () => !await isFlowing(agent, running.flow), 'without that entry it is closed')
  await world.quiet()
  await change(sandboxes.rules, policies.rules)
})

test('rules loaded anew keep flows and counts', async () => {
  const { internet } = sandboxes
  const { flow } = await internet.agent.ask('tcp', { address: outside.web4, port: 22, waitMs: 5000 })
  const { flow: inside } = await outsider.ask('tcp', { address: host.ipv4, port: 18_000, waitMs: 5000 })
  for (const [agent, id] of [[internet.agent, flow], [outsider, inside]] as const) await agent.ask('send', { flow: id, text: 'stream' })
  assert.equal((await sandboxes.none.agent.ask('tcp', { address: outside.web4, port: 22, waitMs: 5000 })).outcome, 'refused')
  const counters = await world.counters()
  assert.ok(Object.values(counters).some(({ packets }) => packets > 0))
  const before = await wholeTable()
  for (let times = 0; times < 30; times++) await world.load(fullRules(world.plan, { apiPort, sandboxes: current.values(), opened: [], counters, isInPlace: true }))
  assert.deepEqual(await wholeTable(), before)
  assert.ok(await isFlowing(internet.agent, flow))
  assert.ok(await isFlowing(outsider, inside))
  assert.deepEqual(await world.counters(), counters)
  await world.quiet()
})

/** All that is in the table, without what the kernel itself notes and forgets. */
async function wholeTable (): Promise<unknown[]> {
  const lines = await hostAgent.ask('list', { what: `table inet ${world.plan.table}` }) as Record<string, { name?: string }>[]
  const kept = lines.filter(line => !('counter' in line) && !/budget|connections|held/.test(line['set']?.name ?? ''))
  // Handles are given anew, and elements stand in no order.
  const plain = (key: string, value: unknown): unknown => key === 'handle' ? undefined : key === 'elem' && Array.isArray(value) ? value.map(one => JSON.stringify(one)).sort() : value
  return kept.map(line => JSON.stringify(line, plain)).sort()
}

test('a slot without a sandbox reaches nothing, and what was added and removed leaves nothing', async () => {
  const before = await wholeTable()
  const sandbox = await world.sandbox(0x123)
  const connect = async () => (await sandbox.agent.ask('tcp', { address: outside.web4, port: 22, waitMs: silenceMs })).outcome
  assert.deepEqual(await reasonsOf(async () => assert.equal(await connect(), 'silent')), ['spoofed_source'])
  const rules = world.rulesOf(sandbox.slot, { allow: ['internet', 'git.example.com:22', outside.private4, 'fd99::/64'], deny: ['evil.example'] },
    { hasGateway: true, publish: [{ port: 1, hostPort: 18_100, protocol: 'udp', isForwarded: true }] })
  await world.load(addSandbox(world.plan, rules) + addSandbox(world.plan, rules))
  assert.equal(await connect(), 'open')
  const opened = { slot: sandbox.slot, address: outside.web4, port: 22, expiresInMs: 60_000 }
  await world.load(openAddress(world.plan, opened))
  assert.deepEqual(changeSandbox(world.plan, rules, rules), { now: '', later: [] })
  await apply(removeSandbox(world.plan, rules, [opened]))
  assert.deepEqual(await reasonsOf(async () => assert.equal(await connect(), 'silent')), ['spoofed_source'])
  assert.deepEqual(await wholeTable(), before)
})

test('a sandbox has 1024 connections at the same time, of both families together, and others have theirs', async () => {
  const { open } = sandboxes
  const crowd = await world.sandbox(0x124)
  await world.load(addSandbox(world.plan, world.rulesOf(crowd.slot, 'internet')))
  const waitMs = 30_000
  const attempts = Array.from({ length: 1100 }, (_, index) => ({ address: index % 4 === 0 ? outside.web6 : outside.web4, port: 5432, waitMs }))
  const { too_many_connections: before = { packets: 0 } } = await world.counters()
  const [outcomes, other] = await Promise.all([crowd.agent.ask('many', { attempts }), open.agent.ask('tcp', { address: outside.web4, port: 5432, waitMs })])
  assert.deepEqual(outcomes, { open: 1024, refused: 76, silent: 0 })
  assert.equal(other.outcome, 'open')
  const { too_many_connections: after = { packets: 0 } } = await world.counters()
  assert.ok(after.packets - before.packets > 76, 'most had to try again, since they all came at once')
  await world.quiet()
  await eventually(async () => (await crowd.agent.ask('tcp', { address: outside.web4, port: 5432, waitMs: 5000 })).outcome === 'open', 'connections that ended make room')
})
