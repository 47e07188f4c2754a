/**
 * Reads the name that a TLS client asks for (SNI) from the first bytes of its connection: RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3.
 * With Encrypted Client Hello this is the outer name, which the server behind it vouches for; the inner one cannot be seen.
 */
import { isIP } from 'node:net'

export type ClientHello =
  | { state: 'partial' }
  /** Lower case, without a dot at its end; absent where the client names nothing, or an address. */
  | { state: 'complete', serverName?: string }
  /** Another protocol. */
  | { state: 'not_tls' }
  | { state: 'malformed' }

/** A ClientHello of today has less than 2 KiB, also with post-quantum keys. */
export const maximumHelloBytes = 16 * 1024

const handshakeRecord = 22
const clientHelloMessage = 1
const recordHeaderBytes = 5
const messageHeaderBytes = 4
const serverNameExtension = 0
const hostNameType = 0
const randomBytes = 32

const malformed: ClientHello = { state: 'malformed' }
const partial: ClientHello = { state: 'partial' }

/** Takes the bytes of a connection in pieces of any size, each byte once: a message may be cut into many records, and a record into many segments. */
export class ClientHelloReader {
  readonly #header = Buffer.alloc(recordHeaderBytes)
  #headerLength = 0
  #recordLeft = 0
  #message = Buffer.alloc(0)
  #messageLength = 0
  #seenBytes = 0

  push (chunk: Buffer): ClientHello {
    for (let at = 0; at < chunk.length;) {
      if (this.#recordLeft === 0) {
        this.#header[this.#headerLength++] = chunk[at++] ?? 0
        const problem = this.#checkHeader()
        if (problem !== undefined) return problem
        continue
      }
      const end = Math.min(chunk.length, at + this.#recordLeft)
      this.#append(chunk.subarray(at, end))
      this.#recordLeft -= end - at
      at = end
      const hello = this.#readMessage()
      if (hello.state !== 'partial') return hello
    }
    this.#seenBytes += chunk.length
    return this.#seenBytes >= maximumHelloBytes ? malformed : partial
  }

  #checkHeader (): ClientHello | undefined {
    const [type, major] = this.#header
    const isFirst = this.#messageLength === 0
    if (type !== handshakeRecord) return isFirst ? { state: 'not_tls' } : malformed
    if (this.#headerLength >= 2 && major !== 3) return isFirst ? { state: 'not_tls' } : malformed
    if (this.#headerLength < recordHeaderBytes) return undefined
    this.#recordLeft = this.#header.readUInt16BE(3)
    this.#headerLength = 0
    return this.#recordLeft === 0 || this.#recordLeft > maximumHelloBytes ? malformed : undefined
  }

  #append (bytes: Buffer): void {
    if (this.#messageLength + bytes.length > this.#message.length) {
      const larger = Buffer.alloc(Math.max(1024, 2 * (this.#messageLength + bytes.length)))
      this.#message.copy(larger, 0, 0, this.#messageLength)
      this.#message = larger
    }
    bytes.copy(this.#message, this.#messageLength)
    this.#messageLength += bytes.length
  }

  #readMessage (): ClientHello {
    if (this.#message[0] !== clientHelloMessage) return malformed
    if (this.#messageLength < messageHeaderBytes) return partial
    const length = this.#message.readUIntBE(1, 3)
    if (length > maximumHelloBytes) return malformed
    if (this.#messageLength < messageHeaderBytes + length) return partial
    return parseClientHello(this.#message.subarray(messageHeaderBytes, messageHeaderBytes + length))
  }
}

/** Every length must fit exactly: what reads otherwise elsewhere is not let through. */
function parseClientHello (body: Buffer): ClientHello {
  const fields = new FieldReader(body)
  fields.take(2 + randomBytes)
  fields.takeVector(1)
  fields.takeVector(2)
  fields.takeVector(1)
  // TLS 1.2 allows a hello without extensions.
  if (fields.isEmpty) return fields.hasFailed ? malformed : { state: 'complete' }
  const extensions = new FieldReader(fields.takeVector(2))
  if (fields.hasFailed || !fields.isEmpty) return malformed
  let list: Buffer | undefined
  while (!extensions.isEmpty) {
    const type = extensions.takeNumber(2)
    const content = extensions.takeVector(2)
    if (extensions.hasFailed) return malformed
    if (type !== serverNameExtension) continue
    if (list !== undefined) return malformed
    list = content
  }
  if (list === undefined) return { state: 'complete' }
  const name = readServerName(list)
  if (name === undefined) return malformed
  // Not allowed, and sent by some all the same: it names no one.
  return isIP(name) !== 0 ? { state: 'complete' } : { state: 'complete', serverName: name }
}

/** Exactly one name of exactly one type. */
function readServerName (extension: Buffer): string | undefined {
  const outer = new FieldReader(extension)
  const list = new FieldReader(outer.takeVector(2))
  const type = list.takeNumber(1)
  const name = list.takeVector(2).toString('latin1')
  if (outer.hasFailed || !outer.isEmpty || list.hasFailed || !list.isEmpty || type !== hostNameType) return undefined
  return canonicalHostName(name)
}

/** A name as rules have it: lower case, no dot at its end; undefined for what is no name. An IPv4 address passes. */
export function canonicalHostName (text: string): string | undefined {
  const name = text.toLowerCase().replace(/\.$/, '')
  const isName = name.length > 0 && name.length <= 253 && name.split('.').every(label => label.length <= 63 && /^[a-z0-9_-]+$/.test(label))
  return isName ? name : undefined
}

/** Reads fields one after the other; reading past the end fails, and yields nothing. */
class FieldReader {
  readonly #bytes: Buffer
  #at = 0
  hasFailed = false

  constructor (bytes: Buffer) { this.#bytes = bytes }

  get isEmpty (): boolean { return this.#at >= this.#bytes.length }

  take (length: number): Buffer {
    if (this.#at + length > this.#bytes.length) {
      this.hasFailed = true
      this.#at = this.#bytes.length
      return Buffer.alloc(0)
    }
    return this.#bytes.subarray(this.#at, this.#at += length)
  }

  takeNumber (bytes: 1 | 2): number {
    const field = this.take(bytes)
    return field.length === bytes ? field.readUIntBE(0, bytes) : 0
  }

  /** A length in that many bytes, and what it tells the length of. */
  takeVector (lengthBytes: 1 | 2): Buffer {
    return this.take(this.takeNumber(lengthBytes))
  }
}
