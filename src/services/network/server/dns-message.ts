/** Messages of the domain name system as bytes: RFC 1035, EDNS by RFC 6891, extended errors by RFC 8914. */
import { DnsFormatError, nameText, readName } from './dns-name.ts'

export const dnsTypes = { A: 1, NS: 2, CNAME: 5, SOA: 6, PTR: 12, TXT: 16, AAAA: 28, OPT: 41, SVCB: 64, HTTPS: 65 } as const
export const dnsCodes = { NOERROR: 0, FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5, BADVERS: 16 } as const
export const dnsFlags = { response: 0x8000, truncated: 0x0200, recursionDesired: 0x0100, recursionAvailable: 0x0080, checkingDisabled: 0x0010 } as const
export const classInternet = 1

/** Larger answers over UDP would be cut into fragments somewhere: what DNS Flag Day 2020 recommends. */
export const udpPayloadBytes = 1232
/** What every client takes over UDP, RFC 1035. */
export const classicPayloadBytes = 512
export const headerBytes = 12

export interface DnsQuestion {
  name: Buffer
  type: number
  class: number
}

export interface DnsRecord {
  name: Buffer
  type: number
  class: number
  ttl: number
  /** Names in it are whole. */
  data: Buffer
}

export interface DnsMessage {
  id: number
  /** The header's second word: flags, opcode, and the low bits of the response code. */
  flags: number
  questions: DnsQuestion[]
  answers: DnsRecord[]
  authorities: DnsRecord[]
  /** Of the OPT record, when there is one. */
  edns?: { udpPayloadBytes: number, version: number }
}

export const opcodeOf = (flags: number): number => flags >> 11 & 0xf
export const codeOf = (flags: number): number => flags & 0xf

/** Where names stand in the data of types that RFC 1035 lets be compressed, and of SRV, where some servers do it too: bytes before, how many names. */
const namesInData: ReadonlyMap<number, readonly [before: number, count: number]> = new Map([
  [2, [0, 1]], [3, [0, 1]], [4, [0, 1]], [5, [0, 1]], [6, [0, 2]], [7, [0, 1]], [8, [0, 1]], [9, [0, 1]], [12, [0, 1]], [14, [0, 2]],
  [15, [2, 1]], [17, [0, 2]], [18, [2, 1]], [21, [2, 1]], [26, [2, 2]], [33, [6, 1]], [36, [2, 1]], [39, [0, 1]],
])

/** How long the data behind the names, or all of it, has to be. */
const bytesInData: ReadonlyMap<number, number> = new Map([[dnsTypes.A, 4], [dnsTypes.AAAA, 16], [dnsTypes.SOA, 20], [dnsTypes.CNAME, 0], [dnsTypes.PTR, 0]])

/** Reads a whole message. Throws DnsFormatError when any of it is malformed; bytes behind it are ignored. */
export function readMessage (bytes: Buffer): DnsMessage {
  if (bytes.length < headerBytes) throw new DnsFormatError('a message has a header of 12 bytes')
  const message: DnsMessage = { id: bytes.readUInt16BE(0), flags: bytes.readUInt16BE(2), questions: [], answers: [], authorities: [] }
  let at: number = headerBytes
  for (let left = bytes.readUInt16BE(4); left > 0; left--) {
    const { name, next } = readName(bytes, at)
    if (next + 4 > bytes.length) throw new DnsFormatError('a question ends outside the message')
    message.questions.push({ name, type: bytes.readUInt16BE(next), class: bytes.readUInt16BE(next + 2) })
    at = next + 4
  }
  const additionals: DnsRecord[] = []
  for (const [offset, records] of [[6, message.answers], [8, message.authorities], [10, additionals]] as const) {
    for (let left = bytes.readUInt16BE(offset); left > 0; left--) {
      const { record, next } = readRecord(bytes, at)
      records.push(record)
      at = next
    }
  }
  const options = additionals.filter(record => record.type === dnsTypes.OPT)
  const [option] = options
  if (options.length > 1 || (option !== undefined && option.name.length > 1)) throw new DnsFormatError('there is one OPT record, of the root')
  if (option !== undefined) message.edns = { udpPayloadBytes: option.class, version: option.ttl >> 16 & 0xff }
  return message
}

function readRecord (bytes: Buffer, offset: number): { record: DnsRecord, next: number } {
  const { name, next: at } = readName(bytes, offset)
  if (at + 10 > bytes.length) throw new DnsFormatError('a record ends outside the message')
  const type = bytes.readUInt16BE(at)
  const next = at + 10 + bytes.readUInt16BE(at + 8)
  if (next > bytes.length) throw new DnsFormatError('the data of a record end outside the message')
  const ttl = bytes.readUInt32BE(at + 4)
  return { record: { name, type, class: bytes.readUInt16BE(at + 2), ttl, data: readData(bytes, type, at + 10, next) }, next }
}

function readData (bytes: Buffer, type: number, start: number, end: number): Buffer {
  const [before, count] = namesInData.get(type) ?? [0, 0]
  const parts = [bytes.subarray(start, start + before)]
  let at = start + before
  for (let left = count; left > 0; left--) {
    // The message as far as this record goes: a name that goes further is malformed.
    const { name, next } = readName(bytes.subarray(0, end), at)
    parts.push(name)
    at = next
  }
  const rest = bytesInData.get(type)
  if (at > end || (rest !== undefined && end - at !== rest)) throw new DnsFormatError('the data of a record are not of its type')
  parts.push(bytes.subarray(at, end))
  return Buffer.concat(parts)
}

/** A question for a name server that resolves. */
export function writeQuery ({ id, question, hasEdns }: { id: number, question: DnsQuestion, hasEdns: boolean }): Buffer {
  const writer = new MessageWriter(headerBytes + question.name.length + 4 + 11)
  writer.header(id, dnsFlags.recursionDesired, [1, 0, 0, hasEdns ? 1 : 0])
  writer.question(question)
  if (hasEdns) writer.option(0)
  return writer.bytes()
}

/** RFC 8914: why an answer is as it is, for people. */
export interface ExtendedError {
  infoCode: number
  text: string
}

export interface DnsResponse {
  id: number
  /** Of the query: its opcode, and the bits that are echoed. */
  queryFlags: number
  code: number
  question?: DnsQuestion
  answers?: readonly DnsRecord[]
  authorities?: readonly DnsRecord[]
  /** Whether the query had an OPT record: only then has the answer one. */
  hasEdns?: boolean
  extendedError?: ExtendedError
}

/** An answer of at most so many bytes: without its records, and marked as truncated, when they do not fit. */
export function writeResponse (response: DnsResponse, limitBytes: number): Buffer {
  const { answers = [], authorities = [] } = response
  const whole = responseWith(response, answers, authorities, 0)
  return whole.length <= limitBytes ? whole : responseWith({ ...response, extendedError: undefined }, [], [], dnsFlags.truncated)
}

function responseWith (response: DnsResponse, answers: readonly DnsRecord[], authorities: readonly DnsRecord[], truncated: number): Buffer {
  const { id, queryFlags, code, question, hasEdns = false, extendedError } = response
  const data = extendedError === undefined ? Buffer.alloc(0) : extendedErrorOption(extendedError)
  const size = [...answers, ...authorities].reduce((sum, record) => sum + record.name.length + 10 + record.data.length, 0)
  const writer = new MessageWriter(headerBytes + (question === undefined ? 0 : question.name.length + 4) + size + 11 + data.length)
  const echoed = queryFlags & (0x7800 | dnsFlags.recursionDesired | dnsFlags.checkingDisabled)
  const flags = dnsFlags.response | dnsFlags.recursionAvailable | echoed | truncated | code & 0xf
  writer.header(id, flags, [question === undefined ? 0 : 1, answers.length, authorities.length, hasEdns ? 1 : 0])
  if (question !== undefined) writer.question(question)
  for (const record of answers) writer.record(record)
  for (const record of authorities) writer.record(record)
  if (hasEdns) writer.option(code >> 4, data)
  return writer.bytes()
}

const extendedErrorCode = 15

function extendedErrorOption ({ infoCode, text }: ExtendedError): Buffer {
  const option = Buffer.alloc(6)
  option.writeUInt16BE(extendedErrorCode, 0)
  option.writeUInt16BE(2 + Buffer.byteLength(text), 2)
  option.writeUInt16BE(infoCode, 4)
  return Buffer.concat([option, Buffer.from(text)])
}

/** Writes names of records compressed against all that stand before them; those in the data of records stay whole. */
class MessageWriter {
  readonly #buffer: Buffer
  #at = 0
  /** Where the rest of a name stands already, by that rest in lower case. */
  readonly #places = new Map<string, number>()

  /** `capacity`: what the message has at most, uncompressed. */
  constructor (capacity: number) {
    this.#buffer = Buffer.alloc(capacity)
  }

  bytes (): Buffer {
    return this.#buffer.subarray(0, this.#at)
  }

  header (id: number, flags: number, counts: readonly number[]): void {
    for (const word of [id, flags, ...counts]) this.#word(word)
  }

  question ({ name, type, class: questionClass }: DnsQuestion): void {
    this.#name(name)
    this.#word(type)
    this.#word(questionClass)
  }

  record ({ name, type, class: recordClass, ttl, data }: DnsRecord): void {
    this.#name(name)
    this.#word(type)
    this.#word(recordClass)
    this.#at = this.#buffer.writeUInt32BE(ttl, this.#at)
    this.#word(data.length)
    if (type === dnsTypes.CNAME) this.#name(data, { isWhole: true })
    else this.#at += data.copy(this.#buffer, this.#at)
  }

  option (highCode: number, data: Buffer = Buffer.alloc(0)): void {
    this.#at = this.#buffer.writeUInt8(0, this.#at)
    this.#word(dnsTypes.OPT)
    this.#word(udpPayloadBytes)
    this.#at = this.#buffer.writeUInt32BE(highCode << 24 >>> 0, this.#at)
    this.#word(data.length)
    this.#at += data.copy(this.#buffer, this.#at)
  }

  #word (value: number): void {
    this.#at = this.#buffer.writeUInt16BE(value, this.#at)
  }

  #name (name: Buffer, { isWhole = false } = {}): void {
    for (let at = 0, length = name[0] ?? 0; length > 0; at += 1 + length, length = name[at] ?? 0) {
      const rest = lowered(name.toString('latin1', at))
      const place = this.#places.get(rest)
      if (place !== undefined && !isWhole) {
        this.#word(0xc000 | place)
        return
      }
      if (place === undefined && this.#at < 0x4000) this.#places.set(rest, this.#at)
      this.#at += name.copy(this.#buffer, this.#at, at, at + 1 + length)
    }
    this.#at = this.#buffer.writeUInt8(0, this.#at)
  }
}

const lowered = (text: string): string => text.replace(/[A-Z]+/g, letters => letters.toLowerCase())

/** What tells questions apart: `1 example.com`. */
export const questionKey = ({ name, type }: { name: Buffer, type: number }): string => `${type} ${nameText(name)}`
