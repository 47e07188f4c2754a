/** The name server of sandboxes: knows each by its source address, which cannot be forged, and answers what its policy lets it know. */
import type { Logger } from 'pino'
import type { Pools } from '../address-classes.ts'
import { DnsListener, maximumQueryBytes, type DnsListenerOptions, type DnsTransport } from './dns-listener.ts'
import {
  classInternet, classicPayloadBytes, dnsCodes, dnsFlags, dnsTypes, headerBytes, opcodeOf, readMessage, udpPayloadBytes, writeResponse,
  type DnsMessage, type DnsQuestion, type DnsResponse,
} from './dns-message.ts'
import { nameText } from './dns-name.ts'
import { DnsOpenings, type Open } from './dns-openings.ts'
import { DnsRuler, type DnsPolicyFunctions, type DnsRuling } from './dns-ruling.ts'
import type { NameResolver } from './name-resolver.ts'
import type { Decision, ServerPolicy } from './network-protocol.ts'

export interface DnsForwarderOptions {
  /** The policy of the sandbox with this address; the same object until it changes. */
  policyOf: (sourceAddress: string) => ServerPolicy | undefined
  resolver: Pick<NameResolver, 'query'>
  gateway4: string
  gateway6: string
  pools: Pools
  decide: DnsPolicyFunctions
  record: (decision: Decision) => void
  open: Open
  logger: Logger
  limits?: Partial<DnsLimits> & Pick<DnsListenerOptions, 'idleMs' | 'maximumPipelined'>
}

/** Of each sandbox. */
export interface DnsLimits {
  /** Questions that wait for a name server or for the packet filter. */
  inFlight: number
  connections: number
  /** Those beyond are dropped; twice as many may come at once. */
  questionsPerSecond: number
}

const defaultLimits: DnsLimits = { inFlight: 64, connections: 32, questionsPerSecond: 1_000 }
/** A policy that changes while its question waits is asked again, this often. */
const maximumRounds = 3

/** What a sandbox uses at this moment. */
interface Usage {
  inFlight: number
  connections: number
  questionsLeft: number
  countedAtMs: number
  saidAtMs: number
  openings: DnsOpenings
}

export class DnsForwarder {
  readonly #options: DnsForwarderOptions
  readonly #limits: DnsLimits
  readonly #ruler: DnsRuler
  readonly #listener: DnsListener
  /** Goes with the policy: another one has to open its own. */
  readonly #usages = new WeakMap<ServerPolicy, Usage>()
  #strangers = 0

  constructor (options: DnsForwarderOptions) {
    const { limits: { idleMs, maximumPipelined, ...limits } = {} } = options
    this.#options = options
    this.#limits = { ...defaultLimits, ...limits }
    this.#ruler = new DnsRuler(options)
    this.#listener = new DnsListener({
      answer: async (query, source, transport) => await this.#answer(query, source, transport),
      admit: source => this.#admit(source),
      logger: options.logger,
      ...idleMs !== undefined && { idleMs },
      ...maximumPipelined !== undefined && { maximumPipelined },
    })
  }

  /** Listens over UDP and TCP on all these addresses or, rejecting, on none. */
  async listen (addresses: readonly string[], port = 53): Promise<void> {
    await this.#listener.listen(addresses, port)
  }

  /** Gives the sockets back; questions under way are not answered. */
  async close (): Promise<void> {
    await this.#listener.close()
  }

  #admit (source: string): (() => void) | undefined {
    const policy = this.#options.policyOf(source)
    if (policy === undefined) {
      if (this.#strangers >= this.#limits.connections) return undefined
      this.#strangers++
      return () => { this.#strangers-- }
    }
    const usage = this.#usageOf(policy)
    if (usage.connections >= this.#limits.connections) {
      this.#options.record({ sandboxId: policy.sandboxId, kind: 'dns', action: 'denied', reason: 'too_many_connections', protocol: 'tcp' })
      return undefined
    }
    usage.connections++
    return () => { usage.connections-- }
  }

  async #answer (bytes: Buffer, source: string, transport: DnsTransport): Promise<Buffer | undefined> {
    if (bytes.length < headerBytes || bytes.length > maximumQueryBytes) return undefined
    const head = { id: bytes.readUInt16BE(0), queryFlags: bytes.readUInt16BE(2) }
    if ((head.queryFlags & dnsFlags.response) !== 0) return undefined
    const refuse = (code: number): Buffer => writeResponse({ ...head, code }, classicPayloadBytes)
    const policy = this.#options.policyOf(source)
    if (policy === undefined) return refuse(dnsCodes.REFUSED)
    if (!this.#isWithinRate(policy)) return undefined
    if (opcodeOf(head.queryFlags) !== 0) return refuse(dnsCodes.NOTIMP)
    const query = readQuery(bytes)
    if (query === undefined) return refuse(dnsCodes.FORMERR)
    const { edns, question } = query
    const limitBytes = transport === 'tcp' ? 0xffff : Math.min(Math.max(edns?.udpPayloadBytes ?? 0, classicPayloadBytes), udpPayloadBytes)
    const response: Omit<DnsResponse, 'code'> = { ...head, question, hasEdns: edns !== undefined }
    if (edns !== undefined && edns.version > 0) return writeResponse({ ...response, code: dnsCodes.BADVERS }, limitBytes)
    if (question.class !== classInternet || isMeta(question.type)) return writeResponse({ ...response, code: dnsCodes.REFUSED }, limitBytes)
    try {
      const { decisions, ...ruling } = await this.#rule(question, source, policy)
      for (const decision of decisions) this.#options.record(decision)
      return writeResponse({ ...response, ...ruling }, limitBytes)
    } catch (error) {
      this.#options.logger.error({ err: error, sandboxId: policy.sandboxId }, 'a question of a sandbox could not be answered')
      return writeResponse({ ...response, code: dnsCodes.SERVFAIL }, limitBytes)
    }
  }

  async #rule (question: DnsQuestion, source: string, askedUnder: ServerPolicy): Promise<DnsRuling> {
    let policy: ServerPolicy | undefined = askedUnder
    for (let round = 0; policy !== undefined && round < maximumRounds; round++) {
      const ruled: ServerPolicy = policy
      const isCurrent = (): boolean => this.#options.policyOf(source) === ruled
      const ruling = await this.#ruleWithin(question, ruled, isCurrent)
      if (isCurrent()) return ruling
      policy = this.#options.policyOf(source)
    }
    return { code: policy === undefined ? dnsCodes.REFUSED : dnsCodes.SERVFAIL, answers: [], authorities: [], decisions: [] }
  }

  async #ruleWithin (question: DnsQuestion, policy: ServerPolicy, isCurrent: () => boolean): Promise<DnsRuling> {
    const usage = this.#usageOf(policy)
    if (usage.inFlight >= this.#limits.inFlight) {
      const decision: Decision = { sandboxId: policy.sandboxId, kind: 'dns', action: 'denied', reason: 'too_many_connections', name: nameText(question.name) }
      return { code: dnsCodes.SERVFAIL, answers: [], authorities: [], decisions: [decision] }
    }
    usage.inFlight++
    try {
      return await this.#ruler.rule(question, { policy, openings: usage.openings, isCurrent })
    } finally {
      usage.inFlight--
    }
  }

  /** One sandbox cannot keep the others from being heard; that it tries is recorded once a second. */
  #isWithinRate (policy: ServerPolicy): boolean {
    const usage = this.#usageOf(policy)
    const { questionsPerSecond } = this.#limits
    const now = performance.now()
    usage.questionsLeft = Math.min(usage.questionsLeft + (now - usage.countedAtMs) / 1_000 * questionsPerSecond, 2 * questionsPerSecond)
    usage.countedAtMs = now
    if (usage.questionsLeft >= 1) {
      usage.questionsLeft--
      return true
    }
    if (now - usage.saidAtMs >= 1_000) {
      usage.saidAtMs = now
      this.#options.record({ sandboxId: policy.sandboxId, kind: 'dns', action: 'denied', reason: 'too_many_connections', protocol: 'udp' })
    }
    return false
  }

  #usageOf (policy: ServerPolicy): Usage {
    let usage = this.#usages.get(policy)
    if (usage === undefined) {
      const openings = new DnsOpenings({ sandboxId: policy.sandboxId, open: this.#options.open })
      usage = { inFlight: 0, connections: 0, questionsLeft: 2 * this.#limits.questionsPerSecond, countedAtMs: performance.now(), saidAtMs: -Infinity, openings }
      this.#usages.set(policy, usage)
    }
    return usage
  }
}

/** The one question of a query; undefined when it is malformed. */
function readQuery (bytes: Buffer): { question: DnsQuestion, edns: DnsMessage['edns'] } | undefined {
  try {
    const { questions: [question, ...others], answers, edns } = readMessage(bytes)
    return question === undefined || others.length > 0 || answers.length > 0 ? undefined : { question, edns }
  } catch {
    return undefined
  }
}

/** RFC 6895, section 3.1: types that are no data: OPT, transfers of zones (AXFR, IXFR), ANY and the like. */
const isMeta = (type: number): boolean => type === 0 || type === dnsTypes.OPT || (type >= 128 && type <= 255)
