/** Reads the entries of allow and deny as clients write them: the grammar is in schemas/network.ts. */
import { domainToASCII } from 'node:url'
import { BerthError } from '../../errors.ts'
import { bitsOf, formatNetwork, parseNetwork, type IpNetwork } from '../../lib/ip-network.ts'
import type { AddressRule, DomainRule, RuleList } from './egress-policy.ts'

/** `invalid_egress`: what is wrong with an entry, and what to write for it. */
export function invalid (entry: string, problem: string, advice: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_egress', `egress: "${entry}" ${problem}; ${advice}`, { details: { entry } })
}

export function rulesOf (entries: readonly string[]): RuleList {
  const list: RuleList = { addresses: [], domains: [] }
  for (const entry of entries) {
    const rule = addressRule(entry) ?? domainRule(entry)
    if ('cidr' in rule) list.addresses.push(rule)
    else list.domains.push(rule)
  }
  return list
}

const forms = 'write an address (203.0.113.7), a network (10.1.0.0/16), or a domain (example.com, *.example.com), with :port where only one is meant'

function addressRule (entry: string): AddressRule | undefined {
  const bracketed = /^\[([^\]]*)\](?::(.*))?$/.exec(entry)
  if (bracketed !== null) {
    const network = parseNetwork(bracketed[1] ?? '')
    if (network?.family !== 6) throw invalid(entry, 'has no IPv6 address in its brackets', 'write it as [fd12::5]:5432 or [fd12::/48]:5432')
    return rule(entry, network, bracketed[2])
  }
  const whole = parseNetwork(entry)
  if (whole !== undefined) return rule(entry, whole, undefined)
  const [, before = '', port] = /^([^:]*):([^:]*)$/.exec(entry) ?? []
  const network = parseNetwork(before)
  if (network !== undefined) return rule(entry, network, port)
  if (entry.includes('/') && !entry.includes('://')) {
    throw invalid(entry, 'is not a network', `write it with a prefix length, as 10.1.0.0/16 or fd12::/48, at most /${bitsOf(4)} or /${bitsOf(6)}; a port follows as 10.1.0.0/16:5432 or [fd12::/48]:5432`)
  }
  if (/^[^:]*:.*:/.test(entry) && !entry.includes('://')) {
    throw invalid(entry, 'is not an IPv6 address', 'write an IPv6 address as fd12::5, without a zone, and with a port as [fd12::5]:5432')
  }
  return undefined
}

function rule (entry: string, network: IpNetwork, port: string | undefined): AddressRule {
  return { entry, family: network.family, cidr: formatNetwork(network), ...port !== undefined && { port: portOf(entry, port) } }
}

function portOf (entry: string, text: string): number {
  const port = /^[1-9]\d{0,4}$/.test(text) ? Number(text) : 0
  if (port < 1 || port > 65_535) throw invalid(entry, `has "${text}" for a port`, 'write a number from 1 to 65535 after the colon, or no colon')
  return port
}

function domainRule (entry: string): DomainRule {
  if (entry === 'internet') throw invalid(entry, 'is for allow', 'leave it out of allow to refuse it')
  const url = /^[a-z][a-z0-9+.-]*:\/\/([^/]*)/i.exec(entry)
  if (url !== null) throw invalid(entry, 'is a URL', `write only the name: ${url[1] === '' ? 'example.com' : url[1]}`)
  const [, before = '', port] = /^([^:]*)(?::(.*))?$/s.exec(entry) ?? []
  return { entry, pattern: patternOf(entry, before), ...port !== undefined && { port: portOf(entry, port) } }
}

function patternOf (entry: string, text: string): string {
  if (text === '*') return '*'
  if (text.startsWith('*.')) return `*.${nameOf(entry, text.slice(2))}`
  return nameOf(entry, text)
}

const maximumLabelLength = 63
const maximumNameLength = 253

function nameOf (entry: string, text: string): string {
  if (text.includes('*')) throw invalid(entry, 'has a * in its midst', 'write * alone for every name, or *.example.com for every name below example.com')
  if (!/^[\w.\-\u{80}-\u{10ffff}]+$/u.test(text)) throw invalid(entry, 'is neither an address nor a domain', forms)
  refuseBrokenAddress(entry, text)
  const name = domainToASCII(text).replace(/\.$/, '')
  refuseBrokenAddress(entry, name)
  const isName = name !== '' && name.length <= maximumNameLength &&
    name.split('.').every(label => label.length <= maximumLabelLength && /^[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?$/.test(label))
  if (!isName) throw invalid(entry, 'is not a domain that can exist', `write labels of letters, digits and hyphens, ${maximumLabelLength} characters at most each`)
  return name
}

/** A name whose last label is a number is an address to most programs, and to some another one than it looks like. */
function refuseBrokenAddress (entry: string, name: string): void {
  const last = name.replace(/\.$/, '').split('.').at(-1) ?? ''
  if (/^(?:\d+|0x[0-9a-f]*)$/i.test(last)) throw invalid(entry, 'looks like an address and is none', 'write an IPv4 address with four numbers from 0 to 255, without leading zeros')
}
