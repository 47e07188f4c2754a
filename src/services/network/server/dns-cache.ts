import type { DnsRecord } from './dns-message.ts'

/** What a name server said: positive, or that there is no such name (NXDOMAIN) or nothing of that type. */
export interface DnsAnswer {
  code: number
  /** Those of the question's name and of the names that its CNAME records lead to; their TTL is what is left of it. */
  answers: readonly DnsRecord[]
  /** The zone's SOA record, when the answer is negative and the server gave it. */
  authorities: readonly DnsRecord[]
}

interface Entry {
  answer: DnsAnswer
  keptAtMs: number
  expiresAtMs: number
}

/** Answers until their time to live is over; those that nobody asked for longest go first. */
export class DnsCache {
  readonly #entries = new Map<string, Entry>()
  readonly #maximumEntries: number
  readonly #now: () => number

  /** `now` in milliseconds, of a clock that only goes forward. */
  constructor ({ maximumEntries = 2_048, now = () => performance.now() }: { maximumEntries?: number, now?: () => number } = {}) {
    this.#maximumEntries = maximumEntries
    this.#now = now
  }

  get (key: string): DnsAnswer | undefined {
    const entry = this.#entries.get(key)
    if (entry === undefined) return undefined
    this.#entries.delete(key)
    const now = this.#now()
    if (now >= entry.expiresAtMs) return undefined
    this.#entries.set(key, entry)
    const age = Math.floor((now - entry.keptAtMs) / 1_000)
    return age === 0 ? entry.answer : { ...entry.answer, answers: aged(entry.answer.answers, age), authorities: aged(entry.answer.authorities, age) }
  }

  /** What is not to be kept at all, for 0 seconds or for its size, is not. */
  keep (key: string, answer: DnsAnswer): void {
    const seconds = Math.min(timeToLive(answer), maximumSeconds)
    if (seconds <= 0 || sizeOf(answer) > maximumAnswerBytes) return
    const now = this.#now()
    this.#entries.delete(key)
    this.#entries.set(key, { answer, keptAtMs: now, expiresAtMs: now + seconds * 1_000 })
    const [oldest] = this.#entries.keys()
    if (this.#entries.size > this.#maximumEntries && oldest !== undefined) this.#entries.delete(oldest)
  }
}

const maximumSeconds = 300
const maximumAnswerBytes = 4_096

const aged = (records: readonly DnsRecord[], seconds: number): DnsRecord[] => records.map(record => ({ ...record, ttl: Math.max(record.ttl - seconds, 0) }))

const sizeOf = ({ answers, authorities }: DnsAnswer): number =>
  [...answers, ...authorities].reduce((sum, record) => sum + record.name.length + record.data.length + 10, 0)

/** How long an answer holds, in seconds. */
function timeToLive ({ answers, authorities }: DnsAnswer): number {
  // The last field of a SOA record is the time that a negative answer holds at most.
  return Math.min(...answers.map(record => record.ttl), ...authorities.map(({ ttl, data }) => Math.min(ttl, data.readUInt32BE(data.length - 4))))
}
