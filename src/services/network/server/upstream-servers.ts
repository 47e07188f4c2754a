/** The name servers that questions of sandboxes are passed on to: those of the settings, or those of the host. */
import { readFileSync, statSync } from 'node:fs'
import { isIP } from 'node:net'
import { BerthError } from '../../../errors.ts'

export interface UpstreamServer {
  address: string
  port: number
}

const dnsPort = 53
// What resolv.conf(5) takes at most, and asks where it names none.
const maximumServers = 3
const localServer: UpstreamServer = { address: '127.0.0.1', port: dnsPort }

/** Reads `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53` or `[2001:db8::53]:5353`. Throws `invalid_resolver`. */
export function parseUpstreamServer (text: string): UpstreamServer {
  const [, bracketed, bracketedPort] = /^\[(.*)\](?::(\d{1,5}))?$/.exec(text) ?? []
  const [, plain, plainPort] = isIP(text) === 6 ? [undefined, text, undefined] : /^([^:[\]]*)(?::(\d{1,5}))?$/.exec(text) ?? []
  const address = bracketed ?? plain ?? ''
  const port = Number(bracketedPort ?? plainPort ?? dnsPort)
  if (isIP(address) === (bracketed === undefined ? 0 : 4) || isIP(address) === 0 || port < 1 || port > 65_535) {
    throw new BerthError('invalid_argument', 'invalid_resolver', `"${text}" is no name server: write an address, or address:port, or [IPv6 address]:port`)
  }
  return { address, port }
}

/** Name servers of a resolv.conf(5); lines that make no sense are passed over, as the C library does. */
export function upstreamServersOf (resolvConf: string): UpstreamServer[] {
  const addresses = resolvConf.split('\n').flatMap(line => /^nameserver[ \t]+(\S+)/.exec(line)?.[1] ?? [])
  const servers = addresses.filter(address => isIP(address) !== 0).map(address => ({ address, port: dnsPort }))
  return servers.length === 0 ? [localServer] : servers.slice(0, maximumServers)
}

export interface UpstreamServersOptions {
  /** As the settings have them; empty: those of resolv.conf. */
  resolvers: readonly string[]
  resolvConfPath?: string
  /** How long what was read is believed, in milliseconds. */
  recheckMs?: number
}

/** Keeps up with a resolv.conf that changes, as it does on hosts that move between networks. */
export class UpstreamServers {
  readonly #path: string
  readonly #recheckMs: number
  readonly #fixed: readonly UpstreamServer[]
  #latest: { checkedAt: number, version: string, servers: readonly UpstreamServer[] } | undefined

  /** Throws `invalid_resolver`. */
  constructor ({ resolvers, resolvConfPath = '/etc/resolv.conf', recheckMs = 5_000 }: UpstreamServersOptions) {
    this.#fixed = resolvers.map(parseUpstreamServer)
    this.#path = resolvConfPath
    this.#recheckMs = recheckMs
  }

  list (): readonly UpstreamServer[] {
    if (this.#fixed.length > 0) return this.#fixed
    const now = performance.now()
    if (this.#latest === undefined || now - this.#latest.checkedAt >= this.#recheckMs) this.#latest = { checkedAt: now, ...this.#read() }
    return this.#latest.servers
  }

  #read (): { version: string, servers: readonly UpstreamServer[] } {
    try {
      const { mtimeMs, size, ino } = statSync(this.#path)
      const version = [mtimeMs, size, ino].join(' ')
      if (this.#latest?.version === version) return this.#latest
      return { version, servers: upstreamServersOf(readFileSync(this.#path, 'utf8')) }
    } catch {
      // While it is being replaced, what it said before holds.
      return this.#latest ?? { version: '', servers: [localServer] }
    }
  }
}
