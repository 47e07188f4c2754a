import { lookup as resolveName } from 'node:dns'
import { readFile } from 'node:fs/promises'
import { BlockList, isIP, type LookupFunction } from 'node:net'
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'
import type { Logger } from 'pino'
import { Agent, buildConnector, type Dispatcher } from 'undici'
import { CredentialFiles } from './registry-credentials.ts'
import { isNotTls, transportError, unavailable, type ErrorSubject } from './registry-errors.ts'
import { InsecureHosts, type RegistrySettings } from './registry-settings.ts'

export interface WireRequest {
  url: URL
  method: 'GET' | 'HEAD' | 'POST' | 'PUT'
  headers: Record<string, string>
  body?: Buffer | string
  signal?: AbortSignal
  /** Whether the host may be this host itself: true for what a client or the configuration names, false for what an answer names. */
  mayBeLoopback: boolean
}

export type WireAnswer = Dispatcher.ResponseData

/** A connection that an answer of a registry must not lead to. */
class AddressRefused extends Error {
  readonly code = 'ERR_BERTH_ADDRESS'
}

// A sandbox's reader may need a layer while others are streamed; registries allow at least this many per client.
const connectionsPerHost = 12
const keepAliveMs = 15_000

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8)
loopback.addSubnet('0.0.0.0', 8)
loopback.addAddress('::1', 'ipv6')
loopback.addAddress('::', 'ipv6')

// Where clouds serve the credentials of the machine.
const linkLocal = new BlockList()
linkLocal.addSubnet('169.254.0.0', 16)
linkLocal.addSubnet('fe80::', 10, 'ipv6')
linkLocal.addAddress('fd00:ec2::254', 'ipv6')

/**
 * What all registry clients of a process share: connection pools per host, which hosts speak TLS, and the files with
 * credentials. Idle connections do not keep the process alive.
 */
export class RegistryConnections {
  readonly settings: RegistrySettings
  readonly credentialFiles: CredentialFiles
  readonly insecureHosts: InsecureHosts
  /** Keyed by what connections of the pool may be. */
  readonly #agents = new Map<string, Promise<Agent>>()
  /** Schemes of insecure hosts that are known, or being found out. */
  readonly #schemes = new Map<string, Promise<'https:' | 'http:'>>()
  #secureContext: Promise<SecureContext> | undefined

  constructor (options: { settings: RegistrySettings, logger?: Logger | undefined }) {
    this.settings = options.settings
    this.insecureHosts = new InsecureHosts(options.settings.insecure)
    this.credentialFiles = new CredentialFiles({ paths: options.settings.authFiles, logger: options.logger })
  }

  /** Base URL of a registry's or mirror's host; for an insecure host by trying TLS first, once. */
  async baseUrl (subject: ErrorSubject, host: string): Promise<URL> {
    if (host.includes('://')) return new URL(host)
    const url = new URL(`https://${host}`)
    if (!this.insecureHosts.includes(url)) return url
    let scheme = this.#schemes.get(url.host)
    if (!scheme) {
      scheme = this.#probe(url).catch((error: unknown) => {
        this.#schemes.delete(url.host)
        throw transportError(subject, error)
      })
      this.#schemes.set(url.host, scheme)
    }
    return await scheme === 'http:' ? new URL(`http://${host}`) : url
  }

  /**
   * Sends one request; redirects are the caller's to follow.
   *
   * @throws RegistryError `registry_unavailable`, or the signal's reason.
   */
  async send (subject: ErrorSubject, request: WireRequest): Promise<WireAnswer> {
    const { url, signal } = request
    try {
      signal?.throwIfAborted()
      const agent = await this.#agent(!this.insecureHosts.includes(url), request.mayBeLoopback)
      const { stallTimeoutMs } = this.settings
      const answer = await agent.request({
        origin: url.origin,
        path: `${url.pathname}${url.search}`,
        method: request.method,
        // A compressed answer would have another digest and other ranges.
        headers: { 'user-agent': 'berth', 'accept-encoding': 'identity', ...request.headers },
        body: request.body ?? null,
        signal: signal ?? null,
        headersTimeout: stallTimeoutMs,
        bodyTimeout: stallTimeoutMs,
      })
      // A body that is let go before anybody reads it fails, and that is to disturb nobody.
      answer.body.on('error', () => undefined)
      return answer
    } catch (error) {
      signal?.throwIfAborted()
      // The next one finds out whether it speaks TLS since.
      this.#schemes.delete(url.host)
      throw transportError(subject, error)
    }
  }

  /** Ends all connections; requests that run fail. */
  async close (): Promise<void> {
    const agents = await Promise.allSettled(this.#agents.values())
    this.#agents.clear()
    await Promise.all(agents.map(async result => result.status === 'fulfilled' ? result.value.destroy() : undefined))
  }

  #agent (verifiesTls: boolean, mayBeLoopback: boolean): Promise<Agent> {
    const key = `${verifiesTls}/${mayBeLoopback}`
    let agent = this.#agents.get(key)
    if (!agent) {
      agent = this.#newAgent(verifiesTls, mayBeLoopback)
      agent.catch(() => this.#agents.delete(key))
      this.#agents.set(key, agent)
    }
    return agent
  }

  async #newAgent (verifiesTls: boolean, mayBeLoopback: boolean): Promise<Agent> {
    const connect = await this.#connector(verifiesTls, mayBeLoopback)
    return new Agent({ connect, allowH2: false, connections: connectionsPerHost, keepAliveTimeout: keepAliveMs, keepAliveMaxTimeout: keepAliveMs })
  }

  async #connector (verifiesTls: boolean, mayBeLoopback: boolean): Promise<buildConnector.connector> {
    const refuse = (address: string) => refusal(address, mayBeLoopback)
    const connect = buildConnector({
      timeout: this.settings.connectTimeoutMs,
      allowH2: false,
      lookup: guardedLookup(refuse),
      ...(verifiesTls ? { secureContext: await this.#trust() } : { rejectUnauthorized: false }),
    })
    return (options, callback) => {
      // An address that is written as such is never looked up.
      const address = options.hostname.replace(/^\[|\]$/g, '')
      const problem = isIP(address) === 0 ? undefined : refuse(address)
      if (problem) callback(problem, null)
      else connect(options, callback)
    }
  }

  #trust (): Promise<SecureContext> {
    this.#secureContext ??= this.#readTrust().catch((error: unknown) => {
      this.#secureContext = undefined
      throw error
    })
    return this.#secureContext
  }

  async #readTrust (): Promise<SecureContext> {
    const authorities = new Set([...getCACertificates('default'), ...getCACertificates('system')])
    const { caFile } = this.settings
    if (!caFile) return createSecureContext({ ca: [...authorities] })
    try {
      return createSecureContext({ ca: [...authorities, await readFile(caFile)] })
    } catch (error) {
      throw unavailable({ registry: 'given', repository: '' }, 'the file of BERTH_REGISTRY_CA_FILE cannot be read as PEM certificates', { cause: error, isTransient: false })
    }
  }

  async #probe (url: URL): Promise<'https:' | 'http:'> {
    const connect = await this.#connector(false, true)
    const error = await new Promise<Error | null>(resolve => {
      connect({ hostname: url.hostname, host: url.host, protocol: 'https:', port: url.port }, (problem, socket) => {
        socket?.destroy()
        resolve(problem)
      })
    })
    if (error === null) return 'https:'
    // Without a port there may be nobody on 443 and somebody on 80.
    if (isNotTls(error) || url.port === '') return 'http:'
    throw error
  }
}

function refusal (address: string, mayBeLoopback: boolean): AddressRefused | undefined {
  const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
  if (linkLocal.check(address, family)) return new AddressRefused('it leads to a link-local address, which is refused')
  if (!mayBeLoopback && loopback.check(address, family)) return new AddressRefused('an answer leads to this host itself, which is refused')
  return undefined
}

/** The system's resolver, which refuses a name as soon as one of its addresses is refused. */
function guardedLookup (refuse: (address: string) => Error | undefined): LookupFunction {
  return (hostname, options, callback) => {
    resolveName(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, [])
      for (const { address } of addresses) {
        const problem = refuse(address)
        if (problem) return callback(problem, [])
      }
      const [first] = addresses
      if (options.all === true) callback(null, addresses)
      else callback(null, first?.address ?? '', first?.family)
    })
  }
}
