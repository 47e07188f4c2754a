/** What a sandbox may reach: entries as a client writes them, and what they mean for packets, names and connections. */

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
