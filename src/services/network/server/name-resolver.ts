/** Asks the host's name servers for sandboxes and for the proxy: each question once, whoever asks it, and not again while its answer holds. */
import type { Logger } from 'pino'
import { formatAddress } from '../../../lib/ip-network.ts'
import { DnsCache, type DnsAnswer } from './dns-cache.ts'
import { exchange } from './dns-exchange.ts'
import { classInternet, codeOf, dnsCodes, dnsTypes, questionKey, type DnsMessage, type DnsRecord } from './dns-message.ts'
import { nameFromText, nameText } from './dns-name.ts'
import type { UpstreamServer } from './upstream-servers.ts'

export interface NameResolverOptions {
  /** In the order in which they are asked. */
  servers: () => readonly UpstreamServer[]
  logger: Logger
  /** How long one server has for one answer. */
  timeoutMs?: number
  maximumQueries?: number
  cache?: DnsCache
}

/** `name` as nameText of dns-name.ts writes it, `type` by its number. */
export interface NameQuestion {
  name: string
  type: number
}

export interface NameAddresses {
  addresses: string[]
  /** How long they hold; 0 when there are none. */
  ttlSeconds: number
}

// A client waits some seconds only; by then a fourth server helps nobody.
const maximumAttempts = 3
// A server that failed is asked after the others for a while.
const penaltyMs = 30_000
const maximumChain = 16

export class NameResolver {
  readonly #options: Required<NameResolverOptions>
  readonly #running = new Map<string, Promise<DnsAnswer>>()
  /** When servers failed last, by address and port. */
  readonly #failures = new Map<string, number>()
  readonly #closing = new AbortController()

  constructor (options: NameResolverOptions) {
    this.#options = { timeoutMs: 2_000, maximumQueries: 512, cache: new DnsCache(), ...options }
  }

  /** Queries under way. */
  get queries (): number {
    return this.#running.size
  }

  /**
   * What the first name server that has an answer says: NOERROR or NXDOMAIN. Rejects when none has, when too many queries are under way, and
   * when the name is none.
   */
  async query (question: NameQuestion): Promise<DnsAnswer> {
    const wire = { name: nameFromText(question.name), type: question.type }
    const key = questionKey(wire)
    const kept = this.#options.cache.get(key)
    if (kept !== undefined) return kept
    const running = this.#running.get(key)
    if (running !== undefined) return await running
    if (this.#running.size >= this.#options.maximumQueries) throw new Error('too many questions to name servers are under way')
    const asked = this.#ask(wire, key)
    this.#running.set(key, asked)
    try {
      return await asked
    } finally {
      this.#running.delete(key)
    }
  }

  /** Addresses of a name, through its CNAME records; none when the name or its addresses do not exist. Rejects as `query` does. */
  async addresses (name: string, family: 4 | 6): Promise<NameAddresses> {
    const type = family === 4 ? dnsTypes.A : dnsTypes.AAAA
    const { answers } = await this.query({ name, type })
    const addresses = answers.filter(record => record.type === type).map(addressOf)
    return { addresses, ttlSeconds: addresses.length === 0 ? 0 : Math.min(...answers.map(record => record.ttl)) }
  }

  /** Ends all queries; they reject. */
  close (): void {
    this.#closing.abort(new Error('the name server is closing'))
  }

  async #ask (question: { name: Buffer, type: number }, key: string): Promise<DnsAnswer> {
    let failure: unknown
    for (const server of this.#attempts()) {
      try {
        const answer = answerOf(question, await this.#askServer(server, question))
        this.#failures.delete(keyOf(server))
        if (isKeepable(question.type, answer)) this.#options.cache.keep(key, answer)
        return answer
      } catch (error) {
        this.#closing.signal.throwIfAborted()
        failure = error
        this.#failures.set(keyOf(server), performance.now())
        this.#options.logger.debug({ err: error, server, question: key }, 'a name server has no answer')
      }
    }
    throw new Error('no name server has an answer', { cause: failure })
  }

  /** Servers that failed lately come last; one that is alone is asked twice, since datagrams get lost. */
  #attempts (): UpstreamServer[] {
    const servers = this.#options.servers()
    const isSound = (server: UpstreamServer): boolean => performance.now() - (this.#failures.get(keyOf(server)) ?? -penaltyMs) >= penaltyMs
    const sorted = [...servers.filter(isSound), ...servers.filter(server => !isSound(server))]
    return (sorted.length === 1 ? [...sorted, ...sorted] : sorted).slice(0, maximumAttempts)
  }

  async #askServer (server: UpstreamServer, question: { name: Buffer, type: number }): Promise<DnsMessage> {
    const options = { server, question, timeoutMs: this.#options.timeoutMs, signal: this.#closing.signal }
    const message = await exchange({ ...options, hasEdns: true })
    const code = codeOf(message.flags)
    // RFC 6891, section 6.2.2: servers that do not know EDNS say so by these.
    return code === dnsCodes.FORMERR || code === dnsCodes.NOTIMP ? await exchange({ ...options, hasEdns: false }) : message
  }
}

/** The address that an A or AAAA record holds, in its usual form. */
export function addressOf ({ type, data }: DnsRecord): string {
  if (type === dnsTypes.A) return data.join('.')
  return formatAddress({ family: 6, value: BigInt(`0x${data.toString('hex')}`) })
}

const keyOf = ({ address, port }: UpstreamServer): string => `${address} ${port}`

/** Throws for an answer that says nothing about the name. */
function answerOf (question: { name: Buffer, type: number }, { flags, answers, authorities }: DnsMessage): DnsAnswer {
  const code = codeOf(flags)
  if (code !== dnsCodes.NOERROR && code !== dnsCodes.NXDOMAIN) throw new Error(`the name server answers with code ${code}`)
  const relevant = relevantAnswers(question, answers)
  const isNegative = !relevant.some(record => record.type === question.type)
  return { code, answers: relevant, authorities: isNegative ? authorities.filter(isZone).slice(0, 1) : [] }
}

/** A negative answer without the zone's SOA record holds for no time that is known (RFC 2308, section 5). */
const isKeepable = (type: number, { answers, authorities }: DnsAnswer): boolean => authorities.length > 0 || answers.some(record => record.type === type)

const isZone = ({ type, class: recordClass }: DnsRecord): boolean => type === dnsTypes.SOA && recordClass === classInternet

/** Records of the type and CNAME records, of the name and of those that it leads to: what else a server puts beside them is not asked for. */
function relevantAnswers (question: { name: Buffer, type: number }, records: readonly DnsRecord[]): DnsRecord[] {
  const wanted = records.filter(({ type, class: recordClass }) => recordClass === classInternet && (type === question.type || type === dnsTypes.CNAME))
  const owners = wanted.map(record => nameText(record.name))
  const chain = new Set([nameText(question.name)])
  for (let size = 0; size < chain.size && chain.size <= maximumChain;) {
    size = chain.size
    for (const [i, record] of wanted.entries()) if (record.type === dnsTypes.CNAME && chain.has(owners[i] ?? '')) chain.add(nameText(record.data))
  }
  return wanted.filter((_record, i) => chain.has(owners[i] ?? ''))
}
