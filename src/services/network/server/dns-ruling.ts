/** What a sandbox gets to know about a name: its policy decides before anybody is asked, and over the addresses that come back. */
import type { DecisionReason } from '../../../schemas/network.ts'
import { parseAddress } from '../../../lib/ip-network.ts'
import { classifyAddress, type Pools } from '../address-classes.ts'
import type { EgressPolicy, PolicyDecision } from '../egress-policy.ts'
import { classInternet, dnsCodes, dnsTypes, type DnsQuestion, type DnsRecord, type ExtendedError } from './dns-message.ts'
import { nameText, reverseAddress } from './dns-name.ts'
import type { DnsOpenings } from './dns-openings.ts'
import { addressOf, type NameResolver } from './name-resolver.ts'
import type { Decision, ServerPolicy } from './network-protocol.ts'

/** The functions of egress-policy.ts that answers depend on. */
export interface DnsPolicyFunctions {
  isNameResolvable: (egress: EgressPolicy, name: string) => PolicyDecision
  portsToOpen: (egress: EgressPolicy, name: string) => number[]
  decideAddress: (egress: EgressPolicy, address: string, port: number, pools: Pools) => PolicyDecision
}

export interface DnsRulerOptions {
  resolver: Pick<NameResolver, 'query'>
  gateway4: string
  gateway6: string
  pools: Pools
  decide: DnsPolicyFunctions
}

/** An answer before it is written, and what is recorded with it. */
export interface DnsRuling {
  code: number
  answers: readonly DnsRecord[]
  authorities: readonly DnsRecord[]
  extendedError?: ExtendedError
  decisions: readonly Decision[]
}

export interface RulingContext {
  policy: ServerPolicy
  openings: DnsOpenings
  /** Whether the policy is still in force: a name that it allows opens nothing after that. */
  isCurrent: () => boolean
}

const gatewayName = 'gateway.internal'
const gatewaySeconds = 60
// A sandbox asks again soon, so that a policy that changed is seen.
const maximumSeconds = 300
const maximumStrippedRecorded = 8
const blocked: ExtendedError = { infoCode: 15, text: 'not allowed by the egress policy of this sandbox' }
const unreachable: ExtendedError = { infoCode: 22, text: 'no name server of the host has an answer' }

export class DnsRuler {
  readonly #options: DnsRulerOptions

  constructor (options: DnsRulerOptions) {
    this.#options = options
  }

  /** The ruling about one question of class IN and of an ordinary type. Never rejects for what name servers do. */
  async rule (question: DnsQuestion, context: RulingContext): Promise<DnsRuling> {
    const { policy } = context
    const name = nameText(question.name)
    if (name === gatewayName && policy.hasGateway) return this.#gateway(question)
    const decision = this.#decide(policy, name)
    const recorded: Decision = { sandboxId: policy.sandboxId, kind: 'dns', ...decision, name }
    if (decision.action === 'denied') return { code: dnsCodes.NXDOMAIN, answers: [], authorities: [], extendedError: blocked, decisions: [recorded] }
    const allowed = policy.egress.mode === 'rules' ? [recorded] : []
    // They may say how to hide the name in a connection from the proxy (ECH), which then could not decide.
    const isHint = question.type === dnsTypes.HTTPS || question.type === dnsTypes.SVCB
    if (isHint && policy.egress.isProxied) return { code: dnsCodes.NOERROR, answers: [], authorities: [], decisions: allowed }
    return await this.#resolve(question, name, context, allowed)
  }

  #gateway ({ name, type }: DnsQuestion): DnsRuling {
    const address = type === dnsTypes.A ? this.#options.gateway4 : type === dnsTypes.AAAA ? this.#options.gateway6 : undefined
    const answers = address === undefined ? [] : [{ name, type, class: classInternet, ttl: gatewaySeconds, data: dataOf(address) }]
    return { code: dnsCodes.NOERROR, answers, authorities: [], decisions: [] }
  }

  #decide ({ egress }: ServerPolicy, name: string): PolicyDecision & { address?: string } {
    const decision = this.#options.decide.isNameResolvable(egress, name)
    if (decision.action === 'denied') return decision
    // Never the host's name servers: they may know one of that name.
    if (name === gatewayName || name.endsWith(`.${gatewayName}`)) return { action: 'denied', reason: 'no_rule' }
    const address = reverseAddress(name)
    if (address === undefined) return decision
    const addressClass = classifyAddress(address, this.#options.pools)
    if (addressClass !== 'public') return { action: 'denied', reason: `${addressClass}_address`, address }
    return egress.mode === 'rules' && !egress.hasInternet ? { action: 'denied', reason: 'no_rule', address } : decision
  }

  async #resolve (question: DnsQuestion, name: string, context: RulingContext, allowed: readonly Decision[]): Promise<DnsRuling> {
    const failed: DnsRuling = { code: dnsCodes.SERVFAIL, answers: [], authorities: [], extendedError: unreachable, decisions: allowed }
    const { policy } = context
    const answer = await this.#options.resolver.query({ name, type: question.type }).catch(() => undefined)
    if (answer === undefined) return failed
    const { kept, stripped } = this.#strip(policy, answer.answers)
    const decisions: Decision[] = stripped.slice(0, maximumStrippedRecorded).map(({ address, reason }) =>
      ({ sandboxId: policy.sandboxId, kind: 'dns', action: 'denied', reason, name, address }))
    const addresses = kept.filter(isAddress).map(addressOf)
    if (stripped.length > 0 && addresses.length === 0) return { code: dnsCodes.NOERROR, answers: [], authorities: [], extendedError: blocked, decisions }
    const answers = kept.map(withShortTtl)
    if (!await this.#openAll(addresses, name, Math.min(...answers.map(record => record.ttl)), context)) return failed
    return { code: answer.code, answers, authorities: answer.authorities.map(withShortTtl), decisions: [...allowed, ...decisions] }
  }

  /** Without records of addresses that the sandbox could not reach, and that would lead its programs to what is behind the host. */
  #strip ({ egress }: ServerPolicy, records: readonly DnsRecord[]): { kept: DnsRecord[], stripped: { address: string, reason: DecisionReason }[] } {
    const kept: DnsRecord[] = []
    const stripped: { address: string, reason: DecisionReason }[] = []
    for (const record of records) {
      const address = isAddress(record) ? addressOf(record) : undefined
      const addressClass = address === undefined ? 'public' : classifyAddress(address, this.#options.pools)
      if (address === undefined || addressClass === 'public' || (addressClass === 'private' && this.#hasRule(egress, address))) kept.push(record)
      else stripped.push({ address, reason: `${addressClass}_address` })
    }
    return { kept, stripped }
  }

  /** Whether an entry that is an address lets the sandbox reach this one by some port. */
  #hasRule (egress: EgressPolicy, address: string): boolean {
    // The last port stands for all that no entry names.
    const ports = new Set([...egress.allow.addresses.flatMap(rule => rule.port ?? []), 443, 65_535])
    return [...ports].some(port => this.#options.decide.decideAddress(egress, address, port, this.#options.pools).action === 'allowed')
  }

  /** Has opened what the name may be reached by beside the proxy's ports. A private or denied address is not opened for having a name. */
  async #openAll (addresses: readonly string[], name: string, ttlSeconds: number, { policy: { egress }, openings, isCurrent }: RulingContext): Promise<boolean> {
    const { decide: { portsToOpen, decideAddress }, pools } = this.#options
    if (addresses.length === 0) return true
    const outcomes = portsToOpen(egress, name).map(async port => {
      const closed = addresses.filter(address => decideAddress(egress, address, port, pools).reason === 'no_rule')
      return closed.length === 0 || (isCurrent() && await openings.ensure(closed, port, ttlSeconds))
    })
    return (await Promise.all(outcomes)).every(Boolean)
  }
}

const isAddress = ({ type }: DnsRecord): boolean => type === dnsTypes.A || type === dnsTypes.AAAA
const withShortTtl = (record: DnsRecord): DnsRecord => ({ ...record, ttl: Math.min(record.ttl, maximumSeconds) })

function dataOf (address: string): Buffer {
  const parsed = parseAddress(address)
  if (parsed === undefined) throw new Error(`${address} is no address`)
  return Buffer.from(parsed.value.toString(16).padStart(parsed.family === 4 ? 8 : 32, '0'), 'hex')
}
