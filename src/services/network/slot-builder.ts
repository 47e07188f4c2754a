/** Makes network namespaces with a routed veth, and takes them away: no bridge, no ARP, every neighbour written down. */
import { IpError, listLinks, listNetworkNamespaces, runIpBatch } from '../../host/ip-batch.ts'
import { readUplinkMtu } from '../../host/ip-query.ts'
import { slotOfName, type NetworkPlan, type NetworkSlot } from './network-plan.ts'

export interface SlotBuilderOptions {
  plan: NetworkPlan
  /** Whether this host has IPv6 at all; without it a slot has IPv4 alone. */
  hasIpv6: boolean
  /** Whether the host passes IPv6 on, so that a sandbox gets a way out by it; as `hasIpv6` when absent. The gateway can be reached anyhow. */
  forwardsIpv6?: boolean
  /** Bytes; that of the host's way out when absent. */
  mtu?: number
}

// The host's end of every veth, seen from inside. Link-local, so each link has its own.
const linkGateway6 = 'fe80::1'
const concurrentInnerBatches = 4

export class SlotBuilder {
  readonly #plan: NetworkPlan
  readonly #hasIpv6: boolean
  readonly #forwardsIpv6: boolean
  #mtu: Promise<number> | undefined

  constructor ({ plan, hasIpv6, forwardsIpv6 = hasIpv6, mtu }: SlotBuilderOptions) {
    this.#plan = plan
    this.#hasIpv6 = hasIpv6
    this.#forwardsIpv6 = forwardsIpv6
    if (mtu !== undefined) this.#mtu = Promise.resolve(mtu)
  }

  /**
   * Makes the slots, and answers them. What is there of them already, by a daemon that died or a deletion that the kernel has not finished, is removed
   * first. When it throws, some may be there in part: `destroy` them.
   *
   * @throws IpError
   */
  async build (slots: readonly NetworkSlot[]): Promise<readonly NetworkSlot[]> {
    await this.#buildHostEnds(slots, await this.#findMtu())
    const queue = [...slots]
    const workers = Array.from({ length: Math.min(concurrentInnerBatches, slots.length) }, async () => {
      for (let slot = queue.shift(); slot; slot = queue.shift()) await this.readdress(slot)
    })
    const outcomes = await Promise.allSettled(workers)
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
    return slots
  }

  /**
   * Gives the inside its addresses and routes, also where it has some. gVisor takes them out of the namespace as it starts, and a
   * container that starts in a namespace without addresses comes up silently without a network: so this goes before every start.
   *
   * @throws IpError
   */
  async readdress (slot: NetworkSlot): Promise<void> {
    await runIpBatch(this.#innerLines(slot), { netns: slot.netns })
  }

  /**
   * Removes the slots, whatever there is of them. The kernel takes the veth away some 50 ms after its namespace; while a process lives
   * in the namespace it stays, and a second call removes it then.
   *
   * @throws Error when a namespace is still there.
   */
  async destroy (slots: readonly NetworkSlot[]): Promise<void> {
    if (slots.length === 0) return
    const present = new Set(await this.#listNamespaces())
    // Deleting a link waits for the kernel, tens of milliseconds each: only where there is no namespace whose end ends it too.
    await runIpBatch(slots.map(({ netns, device }) => present.has(netns) ? `netns del ${netns}` : `link del ${device}`), { isForced: true })
    const names = new Set(slots.map(({ netns }) => netns))
    const left = (await this.#listNamespaces()).filter(name => names.has(name))
    if (left.length > 0) throw new Error(`network namespaces could not be deleted: ${left.join(', ')}`)
  }

  /** The number of every slot of this plan of which something is there, in order. */
  async find (): Promise<number[]> {
    const [namespaces, links] = await Promise.all([this.#listNamespaces(), listLinks(this.#plan.group)])
    const numbers = [...namespaces, ...links.map(({ name }) => name)].flatMap(name => slotOfName(this.#plan, name) ?? [])
    return [...new Set(numbers)].sort((a, b) => a - b)
  }

  /** All host ends in one process; a line that fails because something is in its way costs that slot a cleaning, once. */
  async #buildHostEnds (slots: readonly NetworkSlot[], mtu: number): Promise<void> {
    let cleaned: NetworkSlot | undefined
    for (let rest = slots; rest.length > 0;) {
      const lines = rest.map(slot => this.#hostLines(slot, mtu))
      try {
        await runIpBatch(lines.flat())
        return
      } catch (error) {
        if (!(error instanceof IpError) || error.problem !== 'exists' || error.line === undefined) throw error
        const index = Math.floor(error.line / (lines[0]?.length ?? 1))
        const slot = rest[index]
        if (!slot || slot === cleaned) throw error
        await runIpBatch([`link del ${slot.device}`, `netns del ${slot.netns}`], { isForced: true })
        cleaned = slot
        rest = rest.slice(index)
      }
    }
  }

  #hostLines ({ netns, device, mac, ipv4, ipv6 }: NetworkSlot, mtu: number): string[] {
    const { group, gateway4, gatewayMac } = this.#plan
    const lines = [
      `netns add ${netns}`,
      // The inner end is born in its namespace: it never carries the host's name for it.
      `link add name ${device} mtu ${mtu} group ${group} type veth peer name eth0 mtu ${mtu} address ${mac} netns ${netns}`,
      // Without generated addresses nothing is said on the link that was not asked for, and no duplicate is looked for.
      `link set ${device} address ${gatewayMac} addrgenmode none`,
    ]
    if (this.#hasIpv6) lines.push(`addr add ${linkGateway6}/64 dev ${device} nodad scope link`)
    lines.push(
      `link set ${device} up`,
      `route add ${ipv4}/32 dev ${device} src ${gateway4}`,
      `neigh add ${ipv4} lladdr ${mac} dev ${device} nud permanent`
    )
    if (this.#hasIpv6) lines.push(`route add ${ipv6}/128 dev ${device}`, `neigh add ${ipv6} lladdr ${mac} dev ${device} nud permanent`)
    return lines
  }

  #innerLines ({ ipv4, ipv6 }: NetworkSlot): string[] {
    const { gateway4, gateway6, gatewayMac } = this.#plan
    const lines = [
      'link set lo up',
      'link set eth0 addrgenmode none',
      `addr replace ${ipv4}/32 dev eth0`,
      'link set eth0 up',
      `neigh replace ${gateway4} lladdr ${gatewayMac} dev eth0 nud permanent`,
      `route replace default via ${gateway4} dev eth0 onlink`,
    ]
    if (!this.#hasIpv6) return lines
    return [
      ...lines,
      `addr replace ${ipv6}/128 dev eth0 nodad`,
      `neigh replace ${linkGateway6} lladdr ${gatewayMac} dev eth0 nud permanent`,
      `route replace ${this.#forwardsIpv6 ? 'default' : `${gateway6}/128`} via ${linkGateway6} dev eth0`,
    ]
  }

  async #listNamespaces (): Promise<string[]> {
    return await listNetworkNamespaces(`berth-${this.#plan.tag}-`)
  }

  #findMtu (): Promise<number> {
    // A failure is not kept: the next build asks again.
    this.#mtu ??= readUplinkMtu().catch((error: unknown) => { this.#mtu = undefined; throw error })
    return this.#mtu
  }
}
