import { randomInt } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { limitBandwidth } from '../../host/traffic-control.ts'
import type { Bandwidth, Egress, NetworkRequest } from '../../schemas/network.ts'
import { decideAddressOfName, parseEgress, type EgressPolicy } from './egress-policy.ts'
import { readForwarding } from './forwarding.ts'
import type { HeldNetwork, NetworkManager, NetworkSpec } from './network-manager.ts'
import { heldSlot, type NetworkPlan, type NetworkSlot } from './network-plan.ts'
import type { PacketFilter } from './packet-filter.ts'
import type { SandboxRules } from './ruleset.ts'
import type { NetworkServerSupervisor } from './server/network-server-supervisor.ts'
import type { OpenRequest, ServerPolicy } from './server/network-protocol.ts'
import type { SlotPool } from './slot-pool.ts'

export interface HostNetworkOptions {
  plan: NetworkPlan
  /** Whether slots have IPv6 beside IPv4. */
  hasIpv6: boolean
  pool: Pick<SlotPool, 'acquire' | 'release'>
  filter: Pick<PacketFilter, 'add' | 'change' | 'remove' | 'open' | 'reload'>
  server: Pick<NetworkServerSupervisor, 'setPolicy' | 'removePolicy'>
  /** Of sandboxes that do not say. */
  defaultEgress: Egress
  publishAddress: string
  logger: Logger
}

/** A sandbox with a network: what is wanted for it, whatever is in force. */
interface Attached {
  slot: NetworkSlot
  rules: SandboxRules
  bandwidth?: Bandwidth | undefined
  /** Whether the packet filter was told of it, and may know it. */
  isFiltered: boolean
}

// Outside of the ports that the kernel gives to connections, and of those that services have by custom.
const firstHostPort = 21_000
const lastHostPort = 32_767
const portTries = 16

/** Networks of the sandboxes of this host. What is wanted is in memory and in the records; what is in force is in the kernel and the network server. */
export class HostNetwork implements NetworkManager {
  readonly #options: HostNetworkOptions
  readonly #attached = new Map<string, Attached>()
  /** Rules that are being removed: not wanted any more, and not known to be gone. */
  readonly #leaving = new Map<string, Attached>()

  constructor (options: HostNetworkOptions) {
    this.#options = options
  }

  specOf (request: NetworkRequest = {}): NetworkSpec {
    const { egress = this.#options.defaultEgress, publish = [], bandwidth, gateway = false } = request
    this.#policyOf(egress)
    const ports = publish.map(({ protocol = 'tcp', ...port }) => ({ ...port, protocol }))
    for (const key of ['port', 'hostPort'] as const) {
      const twice = ports.find((port, index) => port[key] !== undefined && ports.some((other, at) => at < index && other[key] === port[key] && other.protocol === port.protocol))
      if (twice) throw new BerthError('invalid_argument', 'invalid_publish', `publish has ${key} ${twice[key]}/${twice.protocol} twice; give each once`)
    }
    return { egress, publish: ports, ...(bandwidth ? { bandwidth } : {}), gateway }
  }

  /**
   * Takes over a network that a sandbox has since before this daemon. Its rules come into force with the next load of all.
   *
   * @throws BerthError conflict `network_pool_changed`: the settings give its slot another address than it has.
   */
  adopt (sandboxId: string, spec: NetworkSpec, held: HeldNetwork): void {
    const { plan } = this.#options
    const slot = heldSlot(plan, held)
    if (!slot) {
      const networks = [plan.block4, plan.leasedPool4].filter(Boolean).join(' or ')
      throw new BerthError('conflict', 'network_pool_changed', `a sandbox runs with the address ${held.ipv4}, which is not of ${networks}: set the address pools to what they were until all sandboxes are stopped`)
    }
    this.#attached.set(sandboxId, { slot, rules: this.#rulesOf(slot, spec), bandwidth: spec.bandwidth, isFiltered: true })
  }

  /** Whether no sandbox has a network. */
  get isIdle (): boolean {
    return this.#attached.size === 0 && this.#leaving.size === 0
  }

  /** The host's end of a sandbox's link; undefined for one that has no network. */
  deviceOf (sandboxId: string): string | undefined {
    return this.#attached.get(sandboxId)?.slot.device
  }

  /** Whether an address is that of a sandbox that may reach the host's API. */
  mayReachApi (address: string): boolean {
    return [...this.#attached.values()].some(({ slot, rules }) => rules.hasGateway && (slot.ipv4 === address || slot.ipv6 === address))
  }

  /** Slots that sandboxes have. */
  takenSlots (): Set<number> {
    return new Set([...this.#attached.values(), ...this.#leaving.values()].map(({ slot }) => slot.number))
  }

  rules (): SandboxRules[] {
    return [...this.#attached.values()].map(({ rules }) => rules)
  }

  policies (): ServerPolicy[] {
    return [...this.#attached].map(([sandboxId, { rules }]) => policyOf(sandboxId, rules))
  }

  async setup (sandboxId: string, spec: NetworkSpec, signal: AbortSignal): Promise<HeldNetwork> {
    await this.tearDown(sandboxId)
    await this.#assertEnforceable(spec)
    const { plan, pool, filter } = this.#options
    const slot = await pool.acquire(signal)
    const attached: Attached = { slot, rules: this.#rulesOf(slot, spec), isFiltered: false }
    this.#attached.set(sandboxId, attached)
    try {
      await Promise.all([this.#serve(sandboxId, attached, spec), this.#limit(attached, spec.bandwidth)])
      // Last: until then no packet of it is let through.
      attached.isFiltered = true
      await filter.add(attached.rules)
    } catch (error) {
      await this.tearDown(sandboxId)
      throw error
    }
    const { ipv4, ipv6, netnsPath } = slot
    return { slot: slot.number, ipv4, netnsPath, gateway4: plan.gateway4, ...(this.#options.hasIpv6 ? { ipv6, gateway6: plan.gateway6 } : {}) }
  }

  async change (sandboxId: string, spec: NetworkSpec): Promise<void> {
    const attached = this.#attached.get(sandboxId)
    if (!attached) return
    await this.#assertEnforceable(spec)
    const { rules: before, bandwidth: bandwidthBefore } = attached
    attached.rules = this.#rulesOf(attached.slot, spec)
    try {
      await Promise.all([this.#serve(sandboxId, attached, spec), this.#limit(attached, spec.bandwidth)])
      await this.#options.filter.change(before, attached.rules)
    } catch (error) {
      attached.rules = before
      await this.#limit(attached, bandwidthBefore).catch((failure: unknown) => this.#warn(sandboxId, failure))
      await this.#options.filter.reload().catch((failure: unknown) => this.#warn(sandboxId, failure))
      await this.#options.server.setPolicy(policyOf(sandboxId, before)).catch((failure: unknown) => this.#warn(sandboxId, failure))
      throw error
    }
  }

  async tearDown (sandboxId: string): Promise<void> {
    const leaving = this.#attached.get(sandboxId) ?? this.#leaving.get(sandboxId)
    if (!leaving) return
    this.#leaving.set(sandboxId, leaving)
    this.#attached.delete(sandboxId)
    const { filter, server, pool } = this.#options
    if (leaving.isFiltered) await filter.remove(leaving.rules)
    leaving.isFiltered = false
    await server.removePolicy(sandboxId)
    await pool.release(leaving.slot)
    this.#leaving.delete(sandboxId)
  }

  /** Lets a sandbox reach what a name that it may reach stands for. The one who asks has read what a sandbox wrote: it is judged again. */
  async open (request: OpenRequest): Promise<boolean> {
    const { plan, filter } = this.#options
    const attached = this.#attached.get(request.sandboxId)
    if (!attached) return false
    const { egress } = attached.rules
    const isNamed = egress.allow.domains.some(({ port }) => port === request.port)
    const isReachable = request.addresses.every(address => decideAddressOfName(egress, address, request.port, plan).action === 'allowed')
    if (!isNamed || !isReachable) return false
    await filter.open(attached.rules, request)
    return true
  }

  /** Has the network server serve it, with a port of the host for each that it publishes. */
  async #serve (sandboxId: string, attached: Attached, spec: NetworkSpec): Promise<void> {
    const isFree = spec.publish.some(({ hostPort }) => hostPort === undefined)
    for (let tries = 1; ; tries++) {
      const publish = spec.publish.map(port => ({ ...port, hostPort: port.hostPort ?? randomInt(firstHostPort, lastHostPort + 1) }))
      try {
        this.#assertUnpublished(sandboxId, publish)
        attached.rules = this.#rulesOf(attached.slot, { ...spec, publish })
        await this.#options.server.setPolicy(policyOf(sandboxId, attached.rules))
        if (isFree) spec.publish = publish
        return
      } catch (error) {
        if (!isFree || tries === portTries || !(error instanceof BerthError) || error.code !== 'port_taken') throw error
      }
    }
  }

  #assertUnpublished (sandboxId: string, publish: ReadonlyArray<{ hostPort: number, protocol: string }>): void {
    for (const [otherId, { rules }] of this.#attached) {
      if (otherId === sandboxId) continue
      const taken = rules.publish.find(held => publish.some(({ hostPort, protocol }) => hostPort === held.hostPort && protocol === held.protocol))
      if (taken) throw new BerthError('conflict', 'port_taken', `port ${taken.hostPort}/${taken.protocol} of the host is published for another sandbox; choose another, or leave hostPort out`, { details: { hostPort: taken.hostPort } })
    }
  }

  async #limit (attached: Attached, bandwidth: Bandwidth | undefined): Promise<void> {
    if (isDeepStrictEqual(attached.bandwidth, bandwidth)) return
    await limitBandwidth({ netns: attached.slot.netns, device: attached.slot.device, ...bandwidth })
    attached.bandwidth = bandwidth
  }

  /** @throws BerthError unavailable `forwarding_off`: packets would go nowhere. */
  async #assertEnforceable ({ egress, publish }: NetworkSpec): Promise<void> {
    const policy = this.#policyOf(egress)
    const leavesByPackets = policy.mode === 'internet' || policy.hasInternet || policy.allow.addresses.length > 0 || policy.allow.domains.some(({ port }) => port !== undefined)
    const isForwarded = publish.length > 0 && this.#isForwarding
    if (!(leavesByPackets || isForwarded) || (await readForwarding()).ipv4) return
    throw new BerthError('unavailable', 'forwarding_off', 'this host does not forward packets, so that sandboxes reach nothing outside; start the daemon with --configure-host, or set net.ipv4.ip_forward=1')
  }

  #rulesOf (slot: NetworkSlot, spec: NetworkSpec): SandboxRules {
    const publish = spec.publish.flatMap(({ hostPort, ...port }) => hostPort === undefined ? [] : [{ ...port, hostPort, isForwarded: this.#isForwarding }])
    return { slot, egress: this.#policyOf(spec.egress), hasGateway: spec.gateway, publish }
  }

  #policyOf (egress: Egress): EgressPolicy {
    return parseEgress(egress, this.#options.plan)
  }

  /** Whether published ports are reached from other machines: then the kernel forwards them, and clients keep their addresses. */
  get #isForwarding (): boolean {
    return this.#options.publishAddress === '0.0.0.0'
  }

  #warn (sandboxId: string, error: unknown): void {
    this.#options.logger.error({ sandboxId, err: error }, 'the network rules of a sandbox could not be put back')
  }
}

function policyOf (sandboxId: string, { slot, egress, hasGateway, publish }: SandboxRules): ServerPolicy {
  const { device, ipv4, ipv6 } = slot
  return { sandboxId, device, ipv4, ipv6, egress, hasGateway, publish: publish.map(({ port, hostPort, protocol }) => ({ port, hostPort, protocol })) }
}
