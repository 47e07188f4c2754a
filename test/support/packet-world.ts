/**
 * A host's network without a daemon and without containers: namespaces in the places of sandboxes, wired as the daemon wires them, an
 * outside with addresses of all kinds, and the packet filter's rules. Nothing of the machine's own network is touched.
 *
 *     sandbox ── veth ─┐                          ┌─ lo: every address in `outside`
 *     sandbox ── veth ─┼─ host ─ uplink ─ outside ┤
 *     bystander ─ veth ┘                          └─ narrow ─ far (an MTU of 1280 on the way there)
 */
import assert from 'node:assert/strict'
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { parseEgress } from '../../src/services/network/egress-policy.ts'
import { planNetwork, type NetworkPlan, type NetworkSlot } from '../../src/services/network/network-plan.ts'
import type { PublishedRule, SandboxRules } from '../../src/services/network/ruleset.ts'
import { denyReasons, type Counters } from '../../src/services/network/ruleset-text.ts'
import type { Egress } from '../../src/schemas/network.ts'
import type { AgentOp, AgentOptions, AgentValue } from './packet-agent.ts'
import type { Teardown } from './test-daemon.ts'

const run = promisify(execFile)
const node = new URL('../../bin/node24', import.meta.url).pathname
const agentPath = new URL('./packet-agent.ts', import.meta.url).pathname

export const pools = Object.freeze({ pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' })

export const outside = Object.freeze({
  web4: '203.0.113.10',
  web6: '2001:db8:1::10',
  other4: '203.0.113.20',
  other6: '2001:db8:1::20',
  dns4: '203.0.113.53',
  dns6: '2001:db8:1::53',
  private4: '10.99.0.1',
  private6: 'fd99::1',
  metadata4: '169.254.169.254',
  metadata6: 'fd00:ec2::254',
  alibaba4: '100.100.100.200',
})
/** Behind a link of less than the usual MTU, which its own end does not know of. */
export const far = '203.0.113.30'
export const host = Object.freeze({ ipv4: '198.51.100.2', ipv6: '2001:db8:ff::2', private4: '192.168.77.1' })
export const bystander = '192.168.50.2'

/** A process in a namespace that does what it is told. */
export class PacketAgent {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (value: unknown) => void>()
  #last = 0

  constructor (ns: string) {
    this.#child = spawn('nsenter', [`--net=/run/netns/${ns}`, node, agentPath], { stdio: ['pipe', 'pipe', 'inherit'] })
    const { stdout } = this.#child
    assert.ok(stdout)
    createInterface({ input: stdout }).on('line', line => {
      const { id, value } = JSON.parse(line) as { id: number, value: unknown }
      this.#waiting.get(id)?.(value)
      this.#waiting.delete(id)
    })
  }

  ask<Op extends AgentOp> (op: Op, options: AgentOptions<Op>): Promise<AgentValue<Op>> {
    const id = ++this.#last
    this.#child.stdin?.write(`${JSON.stringify({ id, op, ...options as object })}\n`)
    return new Promise(resolve => this.#waiting.set(id, resolve as (value: unknown) => void))
  }

  async end (): Promise<void> {
    const exited = this.#child.exitCode === null && once(this.#child, 'exit')
    this.#child.stdin?.end()
    await exited
  }
}

export interface WorldSandbox {
  slot: NetworkSlot
  agent: PacketAgent
}

export class PacketWorld {
  readonly plan: NetworkPlan
  /** Of a second daemon on the same host. */
  readonly otherPlan: NetworkPlan
  readonly #tag: string
  readonly #namespaces: string[] = []
  readonly #agents = new Map<string, PacketAgent>()

  private constructor () {
    const bytes = randomBytes(6).toString('hex')
    this.#tag = bytes.slice(0, 6)
    this.plan = planNetwork({ tag: this.#tag, ...pools, blockIndex: 2 })
    this.otherPlan = planNetwork({ tag: bytes.slice(6), ...pools, blockIndex: 5 })
  }

  static async start (t: Teardown): Promise<PacketWorld> {
    const world = new PacketWorld()
    t.after(() => world.#end())
    await world.#build()
    return world
  }

  get hostNs (): string { return `bp${this.#tag}h` }
  get #outsideNs (): string { return `bp${this.#tag}o` }
  get #farNs (): string { return `bp${this.#tag}f` }
  get #bystanderNs (): string { return `bp${this.#tag}b` }

  #agentOf (ns: string): PacketAgent {
    const known = this.#agents.get(ns)
    if (known !== undefined) return known
    const agent = new PacketAgent(ns)
    this.#agents.set(ns, agent)
    return agent
  }

  get hostAgent (): PacketAgent { return this.#agentOf(this.hostNs) }
  get outsideAgent (): PacketAgent { return this.#agentOf(this.#outsideNs) }
  get farAgent (): PacketAgent { return this.#agentOf(this.#farNs) }
  get bystanderAgent (): PacketAgent { return this.#agentOf(this.#bystanderNs) }

  /** Ends all flows, and what servers send without end. */
  async quiet (): Promise<void> {
    await Promise.all([...this.#agents.values()].map(agent => agent.ask('end', {})))
  }

  /** A namespace in the place of a sandbox, and a process in it. */
  async sandbox (number: number, plan: NetworkPlan = this.plan): Promise<WorldSandbox> {
    const slot = plan.slot(number)
    const { netns, device, mac, ipv4, ipv6 } = slot
    await this.#addNamespace(netns)
    await this.ip(this.hostNs, [
      `link add name ${device} mtu 1500 group ${plan.group} type veth peer name eth0 mtu 1500 address ${mac} netns ${netns}`,
      `link set ${device} address ${plan.gatewayMac} addrgenmode none`,
      `address add fe80::1/64 dev ${device} nodad scope link`,
      `link set ${device} up`,
      `route add ${ipv4}/32 dev ${device} src ${plan.gateway4}`,
      `route add ${ipv6}/128 dev ${device}`,
      `neigh add ${ipv4} lladdr ${mac} dev ${device} nud permanent`,
      `neigh add ${ipv6} lladdr ${mac} dev ${device} nud permanent`,
    ])
    await this.ip(netns, [
      'link set lo up',
      'link set eth0 addrgenmode none',
      `address add ${ipv4}/32 dev eth0`,
      `address add ${ipv6}/128 dev eth0 nodad`,
      'link set eth0 up',
      `neigh add ${plan.gateway4} lladdr ${plan.gatewayMac} dev eth0 nud permanent`,
      `neigh add fe80::1 lladdr ${plan.gatewayMac} dev eth0 nud permanent`,
      `route add default via ${plan.gateway4} dev eth0 onlink`,
      'route add default via fe80::1 dev eth0',
    ])
    return { slot, agent: this.#agentOf(netns) }
  }

  rulesOf (slot: NetworkSlot, egress: Egress, { publish = [], hasGateway = false }: { publish?: PublishedRule[], hasGateway?: boolean } = {}): SandboxRules {
    return { slot, egress: parseEgress(egress, pools), publish, hasGateway }
  }

  /** Rejects when the transaction fails. */
  async load (commands: string): Promise<void> {
    assert.equal(await this.hostAgent.ask('load', { commands }), '')
  }

  async counters (plan: NetworkPlan = this.plan): Promise<Counters> {
    const lines = await this.hostAgent.ask('list', { what: `counters table inet ${plan.table}` }) as { counter?: { name: string, packets: number, bytes: number } }[]
    const known = lines.flatMap(({ counter }) => counter === undefined ? [] : [counter])
    return Object.fromEntries(denyReasons.map(({ reason, counter }) => {
      const { packets = 0, bytes = 0 } = known.find(({ name }) => name === counter) ?? {}
      return [reason, { packets, bytes }]
    }))
  }

  /** What a program in a namespace writes. */
  async in (ns: string, program: string, ...args: string[]): Promise<string> {
    return (await run('nsenter', [`--net=/run/netns/${ns}`, program, ...args])).stdout
  }

  async ip (ns: string, lines: string[]): Promise<void> {
    const child = run('ip', ['-n', ns, '-batch', '-'])
    child.child.stdin?.end(`${lines.join('\n')}\n`)
    await child
  }

  async #addNamespace (name: string): Promise<void> {
    await run('ip', ['netns', 'add', name])
    this.#namespaces.push(name)
  }

  async #build (): Promise<void> {
    const [hostNs, outsideNs, farNs, bystanderNs] = [this.hostNs, this.#outsideNs, this.#farNs, this.#bystanderNs]
    for (const name of [hostNs, outsideNs, farNs, bystanderNs]) await this.#addNamespace(name)
    await this.ip(hostNs, [
      'link set lo up',
      ...[this.plan, this.otherPlan].flatMap(plan => [`address add ${plan.gateway4}/32 dev lo`, `address add ${plan.gateway6}/128 dev lo nodad`]),
      `address add ${host.private4}/32 dev lo`,
      `link add name uplink type veth peer name downlink netns ${outsideNs}`,
      'link set uplink up',
      `address add ${host.ipv4}/24 dev uplink`,
      `address add ${host.ipv6}/64 dev uplink nodad`,
      `link add name plain type veth peer name eth0 netns ${bystanderNs}`,
      'link set plain up',
      'address add 192.168.50.1/24 dev plain',
    ])
    await this.ip(outsideNs, [
      'link set lo up',
      'link set downlink up',
      'address add 198.51.100.1/24 dev downlink',
      'address add 2001:db8:ff::1/64 dev downlink nodad',
      `link add name narrow mtu 1280 type veth peer name eth0 netns ${farNs}`,
      'link set narrow up',
      'address add 203.0.113.29/32 dev narrow',
      `route add ${far}/32 dev narrow`,
      ...Object.values(outside).map(address => `address add ${address}/${address.includes(':') ? 128 : 32} dev lo`),
      `route add ${this.plan.pool4} via ${host.ipv4}`,
      `route add ${this.plan.pool6} via ${host.ipv6}`,
      `route add ${bystander}/32 via ${host.ipv4}`,
    ])
    await this.ip(farNs, ['link set lo up', 'link set eth0 up', `address add ${far}/32 dev eth0`, 'route add 203.0.113.29/32 dev eth0', 'route add default via 203.0.113.29'])
    await this.ip(bystanderNs, ['link set lo up', 'link set eth0 up', `address add ${bystander}/24 dev eth0`, 'route add default via 192.168.50.1'])
    await this.ip(hostNs, ['route add default via 198.51.100.1', 'route add default via 2001:db8:ff::1'])
    for (const ns of [hostNs, outsideNs]) await this.in(ns, 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding')
  }

  async #end (): Promise<void> {
    await Promise.all([...this.#agents.values()].map(agent => agent.end()))
    for (const name of this.#namespaces.toReversed()) await run('ip', ['netns', 'delete', name])
    const { stdout } = await run('ip', ['netns', 'list'])
    assert.deepEqual(this.#namespaces.filter(name => stdout.includes(name)), [], 'no namespace is left')
  }
}
