/** What a sandbox may reach: entries as a client writes them, and what they mean for packets, names and connections. */
import type { DecisionReason, Egress } from '../../schemas/network.ts'
import { formatNetwork, hasAddress, knownNetwork, liesWithin, parseAddress, without, type IpNetwork } from '../../lib/ip-network.ts'
import { classifyAddress, forbiddenRanges, overlapping, privateRanges, type AddressRange, type Pools } from './address-classes.ts'
import { invalid, rulesOf } from './egress-entries.ts'

/** `203.0.113.0/24`, `10.1.2.3:5432`. */
export interface AddressRule {
  /** As the client wrote it. */
  entry: string
  family: 4 | 6
  /** Canonical, with its prefix length: `203.0.113.0/24`, `fd12::/48`. */
  cidr: string
  /** Absent: every port and every protocol. Present: this port, tcp and udp. */
  port?: number
}

/** `example.com`, `*.example.com` (names below it, not itself), `*` (all names). */
export interface DomainRule {
  entry: string
  /** Lower case, A-labels, no dot at the end. */
  pattern: string
  /** Absent: 80 and 443. */
  port?: number
}

export interface RuleList {
  addresses: AddressRule[]
  domains: DomainRule[]
}

/** Egress as the daemon and the network server work by it; plain JSON. */
export interface EgressPolicy {
  /** none: nothing; internet: every public address and no rule; rules: what follows. */
  mode: 'none' | 'internet' | 'rules'
  /** rules: `internet` is among what is allowed. */
  hasInternet: boolean
  allow: RuleList
  deny: RuleList
  /** Whether ports 80 and 443 go through the proxy: a domain is among the rules. */
  isProxied: boolean
}

/** Whether something may happen, and why. */
export interface PolicyDecision {
  action: 'allowed' | 'denied'
  reason: DecisionReason
  /** The entry that decided; `internet` when being public did. */
  entry?: string
}

const proxiedPorts: readonly number[] = [80, 443]

/**
 * What entries mean.
 *
 * Throws `invalid_egress`, with the entry and what to write for it: for what is neither address nor name, for what overlaps addresses that
 * no sandbox reaches, and for what could not be enforced.
 */
export function parseEgress (egress: Egress, pools: Pools): EgressPolicy {
  const empty = (): RuleList => ({ addresses: [], domains: [] })
  if (egress === 'none' || egress === 'internet') return { mode: egress, hasInternet: false, allow: empty(), deny: empty(), isProxied: false }
  const hasInternet = egress.allow.includes('internet')
  const allow = rulesOf(egress.allow.filter(entry => entry !== 'internet'))
  const deny = rulesOf(egress.deny ?? [])
  for (const rule of allow.addresses) checkAllowedAddress(rule, pools)
  for (const rule of deny.domains) if (hasInternet) checkDeniedName(rule)
  return { mode: 'rules', hasInternet, allow, deny, isProxied: allow.domains.length > 0 || deny.domains.length > 0 }
}

/**
 * What the entries that are domains say of a name and port: denied by `rule`, allowed by `rule`, or `no_rule`; then the address that is
 * really asked for decides.
 */
export function decideName (policy: EgressPolicy, name: string, port: number): PolicyDecision {
  if (policy.mode === 'none') return denied('egress_none')
  const domain = canonicalName(name)
  const denial = policy.deny.domains.find(rule => isDenying(rule, port) && matches(rule.pattern, domain))
  if (denial !== undefined) return denied('rule', denial.entry)
  const permission = policy.allow.domains.find(rule => isAllowing(rule, port) && matches(rule.pattern, domain))
  return permission === undefined ? denied('no_rule') : allowed(permission.entry)
}

/** Whether packets to an address and port may leave; the packet filter decides by the same rules. Addresses of the host are not known here. */
export function decideAddress (policy: EgressPolicy, address: string, port: number, pools: Pools): PolicyDecision {
  const addressClass = classifyAddress(address, pools)
  const parsed = parseAddress(address)
  if (parsed === undefined || addressClass === 'forbidden') return denied('forbidden_address')
  if (policy.mode === 'none') return denied('egress_none')
  const ruleFor = (list: RuleList) => list.addresses.find(rule => (rule.port === undefined || rule.port === port) && hasAddress(networkOfRule(rule), parsed))
  const denial = ruleFor(policy.deny)
  if (denial !== undefined) return denied('rule', denial.entry)
  const permission = ruleFor(policy.allow)
  if (permission !== undefined) return allowed(permission.entry)
  if (addressClass === 'private') return denied('private_address')
  return policy.mode === 'internet' || policy.hasInternet ? allowed('internet') : denied('no_rule')
}

/** Whether an address that an allowed name stands for may be reached: what is public follows from the name, anything else needs an entry of its own. */
export function decideAddressOfName (policy: EgressPolicy, address: string, port: number, pools: Pools): PolicyDecision {
  const decision = decideAddress(policy, address, port, pools)
  return decision.reason === 'no_rule' ? { action: 'allowed', reason: 'rule' } : decision
}

/** Whether the name server answers questions for a name: when some port of it may be reached. */
export function isNameResolvable (policy: EgressPolicy, name: string): PolicyDecision {
  if (policy.mode === 'none') return denied('egress_none')
  const domain = canonicalName(name)
  const denials = policy.deny.domains.filter(rule => matches(rule.pattern, domain))
  const whole = denials.find(rule => rule.port === undefined)
  if (whole !== undefined) return denied('rule', whole.entry)
  const isOpen = (port: number): boolean => !denials.some(rule => rule.port === port)
  const permission = policy.allow.domains.find(rule => matches(rule.pattern, domain) && portsOf(rule).some(isOpen))
  if (permission !== undefined) return allowed(permission.entry)
  if (policy.mode === 'internet' || policy.hasInternet) return allowed('internet')
  const [denial] = denials
  return denial === undefined ? denied('no_rule') : denied('rule', denial.entry)
}

/** Ports by which entries name this domain, beside those that go through the proxy; with `internet` none has to be opened. */
export function portsToOpen (policy: EgressPolicy, name: string): number[] {
  if (policy.mode !== 'rules' || policy.hasInternet) return []
  const domain = canonicalName(name)
  const ports = policy.allow.domains.filter(rule => matches(rule.pattern, domain)).flatMap(portsOf)
  return [...new Set(ports)].filter(port => !proxiedPorts.includes(port) && decideName(policy, domain, port).action === 'allowed')
}

const allowed = (entry: string): PolicyDecision => ({ action: 'allowed', reason: 'rule', entry })
const denied = (reason: DecisionReason, entry?: string): PolicyDecision => ({ action: 'denied', reason, ...entry !== undefined && { entry } })

const portsOf = (rule: DomainRule): readonly number[] => rule.port === undefined ? proxiedPorts : [rule.port]
const isAllowing = (rule: DomainRule, port: number): boolean => portsOf(rule).includes(port)
const isDenying = (rule: DomainRule, port: number): boolean => rule.port === undefined || rule.port === port

const canonicalName = (name: string): string => name.toLowerCase().replace(/\.$/, '')

function matches (pattern: string, domain: string): boolean {
  if (pattern === '*') return true
  return pattern.startsWith('*.') ? domain.length > pattern.length - 1 && domain.endsWith(pattern.slice(1)) : domain === pattern
}

// Rules are plain data that travels; what they mean as numbers is worked out once.
const networks = new WeakMap<AddressRule, IpNetwork>()

function networkOfRule (rule: AddressRule): IpNetwork {
  const known = networks.get(rule)
  if (known !== undefined) return known
  const network = knownNetwork(rule.cidr)
  networks.set(rule, network)
  return network
}

function checkAllowedAddress (rule: AddressRule, pools: Pools): void {
  const network = networkOfRule(rule)
  if (network.prefixLength === 0) throw invalid(rule.entry, 'covers every address', 'write "internet" for every public address')
  const [forbidden] = overlapping(network, forbiddenRanges(pools))
  if (forbidden !== undefined) {
    if (liesWithin(network, forbidden.network)) throw invalid(rule.entry, `is of ${forbidden.cidr} (${forbidden.what}), which no sandbox may reach`, 'leave it out')
    throw invalid(rule.entry, `contains ${forbidden.cidr} (${forbidden.what}), which no sandbox may reach`, remainder(rule, network, forbidden))
  }
  const [inner] = overlapping(network, privateRanges).filter(range => !liesWithin(network, range.network))
  if (inner !== undefined) {
    throw invalid(rule.entry, `contains public addresses and with ${inner.cidr} also ${inner.what}`, 'write "internet", or the public and the private networks that are meant one by one')
  }
}

const mostPiecesShown = 8

function remainder (rule: AddressRule, network: IpNetwork, hole: AddressRange): string {
  const pieces = without(network, hole.network).map(formatNetwork)
  if (pieces.length > mostPiecesShown) return 'write the smaller networks that are meant'
  const written = pieces.map(piece => rule.port === undefined ? piece : rule.family === 4 ? `${piece}:${rule.port}` : `[${piece}]:${rule.port}`)
  return `write those of its parts that are meant: ${written.join(', ')}`
}

/** With `internet`, packets go to every public address: that one of them belongs to a name is known for 80 and 443 alone, where the proxy reads the name. */
function checkDeniedName ({ entry, port, pattern }: DomainRule): void {
  if (port === undefined || proxiedPorts.includes(port)) return
  throw invalid(entry, `cannot be refused for port ${port} alone while "internet" is allowed`, `write "${pattern}", which refuses to resolve the name, or deny its addresses`)
}
