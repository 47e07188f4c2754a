import { BlockList, isIP } from 'node:net'

/** How registries are reached. One frozen object per process; see RegistryConnections. */
export interface RegistrySettings {
  /** Registry → base URLs or host[:port], tried in this order before the registry itself. */
  mirrors: ReadonlyMap<string, readonly string[]>
  /**
   * Hosts for which plain HTTP and TLS that does not verify are good enough: `host` (any port), `host:port`, an address or
   * a network in CIDR form. Networks match addresses that are written in a reference, not what a name resolves to.
   */
  insecure: readonly string[]
  /** PEM file of authorities that are trusted beside the system's. */
  caFile?: string
  /** Files in the format of Docker's config.json, the first that knows a registry wins. */
  authFiles: readonly string[]
  connectTimeoutMs: number
  /** How long a registry may send nothing while an answer is awaited. */
  stallTimeoutMs: number
}

/** Loopback may be plain, as with Docker; everything else has TLS that verifies. */
export const defaultRegistrySettings: Readonly<RegistrySettings> = Object.freeze({
  mirrors: new Map<string, readonly string[]>(),
  insecure: Object.freeze(['127.0.0.0/8', '::1/128', 'localhost']),
  authFiles: Object.freeze([]),
  connectTimeoutMs: 10_000,
  stallTimeoutMs: 30_000,
})

const hostAndPort = /^(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[a-f0-9:.]+\])(?::\d{1,5})?$/

/**
 * Reads `docker.io=https://mirror.example,http://10.0.0.1:5000;ghcr.io=mirror.example:5000`.
 *
 * @throws Error that says what is wrong.
 */
export function parseMirrors (text: string): Map<string, string[]> {
  const mirrors = new Map<string, string[]>()
  for (const rule of items(text, ';')) {
    const equals = rule.indexOf('=')
    const registry = rule.slice(0, Math.max(equals, 0)).trim().toLowerCase()
    if (!isHost(registry)) throw new Error(`${rule} names no registry: write registry=mirror,mirror;registry=mirror`)
    const urls = items(rule.slice(equals + 1), ',')
    if (urls.length === 0) throw new Error(`${registry} has no mirror behind its =`)
    for (const url of urls) checkMirror(url)
    mirrors.set(registry, [...mirrors.get(registry) ?? [], ...urls])
  }
  return mirrors
}

/**
 * Reads `registry.lan, 10.0.0.0/8, other:5000`: hosts, with or without a port, addresses and networks.
 *
 * @throws Error that says what is wrong.
 */
export function parseInsecure (text: string): string[] {
  return items(text, ',').map(item => {
    const entry = item.toLowerCase()
    if (readNetwork(entry) === undefined && !isHost(entry)) throw new Error(`${item} is neither a host, host:port, an address nor a network such as 10.0.0.0/8`)
    return entry
  })
}

/** The hosts of RegistrySettings.insecure. */
export class InsecureHosts {
  readonly #names = new Set<string>()
  readonly #networks = new BlockList()

  constructor (entries: readonly string[]) {
    for (const entry of entries) {
      const network = readNetwork(entry)
      if (network) this.#networks.addSubnet(network.address, network.prefix, network.family)
      else this.#names.add(entry.toLowerCase())
    }
  }

  /** Whether the host of this URL may be spoken to without TLS, or with TLS that does not verify. */
  includes (url: URL): boolean {
    const address = url.hostname.replace(/^\[|\]$/g, '')
    const family = isIP(address)
    if (family !== 0 && this.#networks.check(address, family === 6 ? 'ipv6' : 'ipv4')) return true
    const port = url.port || (url.protocol === 'http:' ? '80' : '443')
    return this.#names.has(url.hostname) || this.#names.has(`${url.hostname}:${port}`)
  }
}

function readNetwork (entry: string): { address: string, prefix: number, family: 'ipv4' | 'ipv6' } | undefined {
  const [base = '', length, ...more] = entry.split('/')
  const address = base.replace(/^\[(.*)\]$/, '$1')
  const version = isIP(address)
  const bits = version === 6 ? 128 : 32
  const prefix = length === undefined ? bits : Number(length)
  if (version === 0 || more.length > 0 || (length !== undefined && !/^\d{1,3}$/.test(length)) || prefix > bits) return undefined
  return { address, prefix, family: version === 6 ? 'ipv6' : 'ipv4' }
}

function checkMirror (text: string): void {
  const url = URL.parse(text.includes('://') ? text : `https://${text}`)
  if (url === null || !/^https?:$/.test(url.protocol)) throw new Error(`${text} is not a mirror: write host, host:port or an http(s) URL`)
  if (url.username !== '' || url.password !== '') throw new Error('a mirror\'s URL may hold no password: put it into the auth file')
  if (url.search !== '' || url.hash !== '') throw new Error(`${text}: a mirror's URL ends with its path`)
}

function isHost (text: string): boolean {
  return hostAndPort.test(text) && URL.canParse(`https://${text}`)
}

function items (text: string, separator: string): string[] {
  return text.split(separator).map(item => item.trim()).filter(item => item !== '')
}
