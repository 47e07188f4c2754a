/** Where a connection of a sandbox through the proxy leads: by the name that it asks for, else by the address that it was meant for. */
import { isIPv6 } from 'node:net'
import { networkInterfaces } from 'node:os'
import type { Destination } from '../../../host/original-destination.ts'
import { formatAddress, parseAddress } from '../../../lib/ip-network.ts'
import { raceWithDelay } from '../../../lib/race.ts'
import type { Pools } from '../address-classes.ts'
import { decideAddress, decideAddressOfName, decideName, type EgressPolicy, type PolicyDecision } from '../egress-policy.ts'

/** What a client asks for. */
export interface EgressTarget {
  kind: 'http' | 'tls'
  /** Canonical (tls-client-hello.ts); absent where it names nothing, or an address. */
  name?: string
  port: number
  /** Where its packets were sent to. */
  original?: Destination
}

/** name: to where the proxy itself resolves the name to; address: to where the packets were sent to. */
export type EgressRuling = PolicyDecision & { by?: 'name' | 'address' }

/** What the name resolves to, and the port; every address is one that the policy lets the sandbox reach by this name. */
export interface VettedRoute {
  addresses: string[]
  port: number
}

/** Nothing that the target stands for may be reached. */
export class EgressRefusal extends Error {
  readonly decision: PolicyDecision
  /** The address that was refused first. */
  readonly address: string | undefined
  constructor (decision: PolicyDecision, address?: string) {
    super(`refused: ${decision.reason}`)
    this.decision = decision
    this.address = address
  }
}

export interface EgressRouterOptions {
  /** Rejects when no name server answers. */
  resolve: (name: string, family: 4 | 6) => Promise<{ addresses: string[], ttlSeconds: number }>
  pools: Pools
  /** Addresses of this host, in their usual form. */
  hostAddresses: () => ReadonlySet<string>
}

// Resolution Delay of RFC 8305.
const otherFamilyDelayMs = 50
// A name with more addresses than this is as good as one with these.
const maximumAddressesOfFamily = 16

export class EgressRouter {
  readonly #options: EgressRouterOptions

  constructor (options: EgressRouterOptions) {
    this.#options = options
  }

  /** What the policy says of a target, before any name is resolved. */
  rule (policy: EgressPolicy, { name, port, original }: EgressTarget): EgressRuling {
    if (name !== undefined) {
      const byName = decideName(policy, name, port)
      if (byName.action === 'allowed') return { ...byName, by: 'name' }
      if (byName.reason !== 'no_rule') return byName
    }
    if (original === undefined) return { action: 'denied', reason: name === undefined ? 'no_name' : 'no_rule' }
    const byAddress = this.#isOwn(original.address) ? hostPort : decideAddress(policy, original.address, original.port, this.#options.pools)
    if (byAddress.action === 'allowed') return { ...byAddress, by: 'address' }
    return name === undefined && byAddress.reason === 'no_rule' ? { action: 'denied', reason: 'no_name' } : byAddress
  }

  /** Whether a connection may go on under this policy, with the address that it goes to, if it goes anywhere yet. */
  mayGoOn (policy: EgressPolicy, target: EgressTarget, address: string | undefined): boolean {
    const { action, by } = this.rule(policy, target)
    if (action === 'denied') return false
    if (address === undefined) return true
    return by === 'address' ? address === target.original?.address : this.#vet(policy, address, target.port).action === 'allowed'
  }

  /**
   * The addresses of a target that a ruling allows, those that the client would try first in front. The policy is asked for again once the
   * name is resolved. Throws EgressRefusal when none is left; undefined when there is no policy any more.
   */
  async route (target: EgressTarget, by: 'name' | 'address', policyNow: () => EgressPolicy | undefined): Promise<VettedRoute | undefined> {
    if (by === 'address' && target.original !== undefined) return { addresses: [target.original.address], port: target.original.port }
    const found = await this.#resolve(target)
    const policy = policyNow()
    if (policy === undefined) return undefined
    const vetted = found.map(address => ({ address, decision: this.#vet(policy, address, target.port) }))
    const addresses = vetted.filter(({ decision }) => decision.action === 'allowed').map(({ address }) => address)
    const [first] = vetted
    if (addresses.length === 0 && first !== undefined) throw new EgressRefusal(first.decision, first.address)
    return { addresses, port: target.port }
  }

  #vet (policy: EgressPolicy, address: string, port: number): PolicyDecision {
    return this.#isOwn(address) ? hostPort : decideAddressOfName(policy, address, port, this.#options.pools)
  }

  #isOwn (address: string): boolean {
    return this.#options.hostAddresses().has(address)
  }

  /** Both families, in usual form; the second one gets little time once the first is there. */
  async #resolve ({ name = '', original }: EgressTarget): Promise<string[]> {
    const found: Record<4 | 6, string[]> = { 4: [], 6: [] }
    const asked = ([4, 6] as const).map(async family => {
      const { addresses } = await this.#options.resolve(name, family)
      found[family] = addresses.slice(0, maximumAddressesOfFamily).flatMap(canonicalAddress)
      if (found[family].length === 0) throw new Error('no addresses')
    })
    const both = Promise.allSettled(asked)
    await Promise.any(asked).catch(() => {})
    if (found[4].length === 0 || found[6].length === 0) await raceWithDelay(otherFamilyDelayMs, [both])
    const families = original !== undefined && isIPv6(original.address) ? [...found[6], ...found[4]] : [...found[4], ...found[6]]
    if (families.length === 0) throw new EgressRefusal({ action: 'denied', reason: 'unresolvable' })
    const preferred = families.filter(address => address === original?.address)
    return [...new Set([...preferred, ...families])]
  }
}

const hostPort: PolicyDecision = { action: 'denied', reason: 'host_port' }

function canonicalAddress (text: string): string[] {
  const address = parseAddress(text)
  return address === undefined ? [] : [formatAddress(address)]
}

// Asking the kernel takes about 0.1 ms.
const ownAddressesHoldMs = 1_000

/** Every address of every interface of this host, asked for again after a second. */
export function readOwnAddresses (): () => ReadonlySet<string> {
  let own: ReadonlySet<string> = new Set()
  let readAtMs = -Infinity
  return () => {
    const nowMs = performance.now()
    if (nowMs - readAtMs < ownAddressesHoldMs) return own
    readAtMs = nowMs
    return own = new Set(Object.values(networkInterfaces()).flatMap(addresses => addresses ?? []).map(({ address }) => address.replace(/%.*$/, '')))
  }
}
