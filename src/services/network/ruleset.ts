/** What nftables is told of single sandboxes: elements of the sets in ruleset-text.ts, and nothing else. */
import { bitsOf, liesWithin, parseNetwork, type IpNetwork } from '../../lib/ip-network.ts'
import type { AddressRule, DomainRule, EgressPolicy } from './egress-policy.ts'
import type { NetworkPlan, NetworkSlot } from './network-plan.ts'
import { tableText, type TableFacts } from './ruleset-text.ts'

export interface PublishedRule {
  port: number
  hostPort: number
  protocol: 'tcp' | 'udp'
  /** Whether packets to this port of any address of the host are sent on to the sandbox; else the network server holds the port. */
  isForwarded: boolean
}

export interface SandboxRules {
  slot: NetworkSlot
  egress: EgressPolicy
  /** Whether it reaches the host's API. */
  hasGateway: boolean
  publish: readonly PublishedRule[]
}

/** An address that a name stands for, which an entry allows with this port. */
export interface OpenedAddress {
  slot: NetworkSlot
  address: string
  port: number
  /** New connections are let through for so long; those that run go on until the address is closed, at most two days. */
  expiresInMs: number
}

export interface RulesetState extends TableFacts {
  sandboxes: Iterable<SandboxRules>
  /** With those that expired, for flows that run: where nothing is left of their time, only these go on. */
  opened: Iterable<OpenedAddress>
}

/** By set, keys with what they stand for: the empty text in sets. */
type Elements = Map<string, Map<string, string>>

/** Replaces everything in one transaction, in which no packet meets half of it. Flows that the rules allow go on. */
export function fullRules (plan: NetworkPlan, { sandboxes, opened, ...facts }: RulesetState): string {
  const all: Elements = new Map()
  const merge = (elements: Elements): void => {
    for (const [set, entries] of elements) for (const [key, value] of entries) put(all, set, key, value)
  }
  for (const rules of sandboxes) merge(sandboxElements(rules))
  for (const address of opened) merge(openedElements(address))
  return tableText(plan, facts) + command(plan, 'add', all)
}

/** All of a sandbox: until then nothing leaves its slot. Idempotent for the same rules; fails where the slot has others. */
export const addSandbox = (plan: NetworkPlan, rules: SandboxRules): string => command(plan, 'add', sandboxElements(rules))

/** What is to be done at once, and what nothing reads any more and is taken away in small transactions, one after the other. */
export interface RuleChange {
  /** Empty when there is nothing. */
  now: string
  later: string[]
}

/** All of a sandbox and its slot, which must be there; `opened`: all that was ever opened for it, whether it expired or not. */
export function removeSandbox (plan: NetworkPlan, rules: SandboxRules, opened: Iterable<OpenedAddress> = []): RuleChange {
  const { quick, slow } = partition(sandboxElements(rules))
  return { now: command(plan, 'delete', quick) + closeAddresses(plan, opened), later: inParts(plan, slow) }
}

/**
 * The difference between two policies of a slot, in force for flows that run as soon as `now` is. What was `opened` for it
 * is closed where an entry that may have opened it is gone: a name that is still allowed is opened again by the next question for it.
 */
export function changeSandbox (plan: NetworkPlan, before: SandboxRules, after: SandboxRules, opened: Iterable<OpenedAddress> = []): RuleChange {
  const [old, wanted] = [sandboxElements(before), sandboxElements(after)]
  const closed = [...opened].filter(({ port }) => isNarrower(before.egress, after.egress, port))
  const gone = difference(old, wanted)
  // Only rules read lists.
  const { quick, slow } = after.egress.mode === 'rules' ? { quick: gone, slow: new Map() } : partition(gone)
  // What goes goes first: a key may come back with another value, or a network in the place of one that overlaps it.
  return { now: command(plan, 'delete', quick) + closeAddresses(plan, closed) + command(plan, 'add', difference(wanted, old)), later: inParts(plan, slow) }
}

/** The kernel takes a network out of a set in time that grows with the set: some milliseconds where a thousand sandboxes have some. */
const slowSets = /^(allow|deny)(_port)?[46]$/

function partition (elements: Elements): { quick: Elements, slow: Elements } {
  const of = (isSlow: boolean): Elements => new Map([...elements].filter(([set]) => slowSets.test(set) === isSlow))
  return { quick: of(false), slow: of(true) }
}

/** One at a time, so that what comes meanwhile waits for one. */
function inParts (plan: NetworkPlan, elements: Elements): string[] {
  return [...elements].flatMap(([set, entries]) => Array.from(entries, entry => command(plan, 'delete', new Map([[set, new Map([entry])]]))))
}

/** Opens an address, or gives one that is open this time anew. */
export const openAddress = (plan: NetworkPlan, opened: OpenedAddress): string => command(plan, 'add', openedElements(opened))

/** Closes addresses for new flows and running ones, also where the kernel has forgotten them. */
export function closeAddresses (plan: NetworkPlan, opened: Iterable<OpenedAddress>): string {
  let text = ''
  for (const address of opened) {
    for (const expiresInMs of [0, 1]) {
      const elements = openedElements({ ...address, expiresInMs })
      // A transaction that deletes what is not there fails; so it is made sure of within the same.
      text += command(plan, 'add', elements) + command(plan, 'delete', elements)
    }
  }
  return text
}

function put (elements: Elements, set: string, key: string, value = ''): void {
  const entries = elements.get(set)
  if (entries === undefined) elements.set(set, new Map([[key, value]]))
  else entries.set(key, value)
}

function command (plan: NetworkPlan, verb: 'add' | 'delete', elements: Elements): string {
  let text = ''
  for (const [set, entries] of elements) {
    const written = Array.from(entries, ([key, value]) => verb === 'delete' || value === '' ? key : value.startsWith('timeout') ? `${key} ${value}` : `${key} : ${value}`)
    text += `${verb} element inet ${plan.table} ${set} { ${written.join(', ')} }\n`
  }
  return text
}

/** What the one has that the other lacks, or has with another value. */
function difference (some: Elements, others: Elements): Elements {
  const left: Elements = new Map()
  for (const [set, entries] of some) {
    for (const [key, value] of entries) if (others.get(set)?.get(key) !== value) put(left, set, key, value)
  }
  return left
}

function sourceElements ({ device, ipv4, ipv6 }: NetworkSlot): Elements {
  return new Map([['source4', new Map([[`${device} . ${ipv4}`, '']])], ['source6', new Map([[`${device} . ${ipv6}`, '']])]])
}

function openedElements ({ slot, address, port, expiresInMs }: OpenedAddress): Elements {
  const family = parseNetwork(address)?.family
  if (family === undefined) throw new Error(`"${address}" is not an address`)
  const key = `${family === 4 ? slot.ipv4 : slot.ipv6} . ${address} . ${port}`
  const elements: Elements = new Map()
  const time = `${Math.ceil(expiresInMs / 1000)}s`
  if (expiresInMs > 0) put(elements, `opened${family}`, key, `timeout ${time} expires ${time}`)
  else put(elements, `held${family}`, key)
  return elements
}

function sandboxElements (rules: SandboxRules): Elements {
  const { slot, egress, hasGateway, publish } = rules
  const elements = sourceElements(slot)
  // Without an element, nothing leaves.
  const policy = egress.mode === 'rules' && egress.hasInternet ? 'rules_and_internet' : egress.mode
  if (policy !== 'none') {
    put(elements, 'egress', slot.device, `goto out_${policy}`)
    put(elements, 'replies', slot.device, `goto back_${policy}`)
  }
  if (egress.isProxied) put(elements, 'proxied', slot.device)
  if (hasGateway) put(elements, 'gateway_users', slot.device)
  for (const list of ['allow', 'deny'] as const) {
    for (const { family, cidr, port } of withoutContained(egress[list].addresses)) {
      const [address = '', prefixLength] = cidr.split('/')
      const isHost = Number(prefixLength) === bitsOf(family)
      const pair = `${family === 4 ? slot.ipv4 : slot.ipv6} . ${isHost ? address : cidr}`
      put(elements, `${list}${isHost ? '_host' : ''}${port === undefined ? '' : '_port'}${family}`, port === undefined ? pair : `${pair} . ${port}`)
    }
  }
  for (const { port, hostPort, protocol, isForwarded } of publish) {
    if (!isForwarded) continue
    for (const [digit, address] of [['4', slot.ipv4], ['6', slot.ipv6]] as const) {
      put(elements, `published${digit}`, `${address} . ${protocol} . ${port}`)
      put(elements, `host_ports${digit}`, `${protocol} . ${hostPort}`, `${address} . ${port}`)
    }
  }
  return elements
}

/** Rules without those that lie within another of the same port: the kernel's sets refuse a network within one they have. */
function withoutContained (rules: readonly AddressRule[]): AddressRule[] {
  const kept = new Map<number | undefined, { rule: AddressRule, network: IpNetwork }[]>()
  const known = rules.map(rule => ({ rule, network: parseNetwork(rule.cidr) })).filter(entry => entry.network !== undefined) as { rule: AddressRule, network: IpNetwork }[]
  for (const entry of known.toSorted((one, other) => one.network.prefixLength - other.network.prefixLength)) {
    const samePort = kept.get(entry.rule.port) ?? []
    if (!samePort.some(({ network }) => liesWithin(entry.network, network))) kept.set(entry.rule.port, [...samePort, entry])
  }
  return [...kept.values()].flat().map(({ rule }) => rule)
}

/** Whether an address that was opened for this port may not be opened by the other policy: an entry is gone that allowed it, or there that denies. */
function isNarrower (before: EgressPolicy, after: EgressPolicy, port: number): boolean {
  const lacks = (some: readonly DomainRule[], others: readonly DomainRule[]): boolean =>
    some.some(rule => (rule.port === undefined || rule.port === port) && !others.some(other => other.pattern === rule.pattern && other.port === rule.port))
  return lacks(before.allow.domains, after.allow.domains) || lacks(after.deny.domains, before.deny.domains)
}
