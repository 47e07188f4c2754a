/** One question to one name server: over UDP, then over TCP when the answer does not fit or when somebody floods with false ones. */
import { randomInt } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { connect, isIPv6 } from 'node:net'
import { classInternet, codeOf, dnsCodes, dnsFlags, opcodeOf, questionKey, readMessage, writeQuery, type DnsMessage } from './dns-message.ts'
import type { UpstreamServer } from './upstream-servers.ts'

export interface ExchangeOptions {
  server: UpstreamServer
  question: { name: Buffer, type: number }
  hasEdns: boolean
  /** For UDP, and again for TCP, in milliseconds. */
  timeoutMs: number
  signal: AbortSignal
}

// More than these is an attempt to guess the id; TCP cannot be guessed at that way.
const maximumFalseAnswers = 8

/** The server's answer, whatever its code. Rejects when none comes in time, when the server cannot be reached, and when it is malformed. */
export async function exchange (options: ExchangeOptions): Promise<DnsMessage> {
  const answer = await exchangeOverUdp(options)
  return answer ?? await exchangeOverTcp(options)
}

interface Query {
  bytes: Buffer
  /** Undefined for what does not answer this query. Throws DnsFormatError for what is no message at all. */
  match: (bytes: Buffer) => DnsMessage | undefined
}

function prepareQuery ({ question, hasEdns }: ExchangeOptions): Query {
  const id = randomInt(0x10000)
  const wanted = questionKey(question)
  const match = (bytes: Buffer): DnsMessage | undefined => {
    const message = readMessage(bytes)
    const { flags, questions: [asked] } = message
    if (message.id !== id || (flags & dnsFlags.response) === 0 || opcodeOf(flags) !== 0 || message.questions.length > 1) return undefined
    // Servers that refuse or do not understand may leave out the question.
    if (asked === undefined) return codeOf(flags) === dnsCodes.NOERROR || codeOf(flags) === dnsCodes.NXDOMAIN ? undefined : message
    return asked.class === classInternet && questionKey(asked) === wanted ? message : undefined
  }
  return { bytes: writeQuery({ id, question: { ...question, class: classInternet }, hasEdns }), match }
}

/** Undefined: ask again over TCP. */
async function exchangeOverUdp (options: ExchangeOptions): Promise<DnsMessage | undefined> {
  const { server } = options
  const query = prepareQuery(options)
  // A socket of its own has a source port that nobody knows; a connected one takes datagrams of this server only, and hears that it is not there.
  const socket = createSocket({ type: isIPv6(server.address) ? 'udp6' : 'udp4', lookup: lookupNothing })
  return await settleWithin(options, () => socket.close(), ({ resolve, reject }) => {
    let falseAnswers = 0
    const onFalse = (): void => { if (++falseAnswers > maximumFalseAnswers) resolve(undefined) }
    socket.on('error', reject)
    socket.on('message', bytes => {
      // A truncated answer may end in the middle of a record: only its header counts.
      try {
        const message = query.match(bytes)
        if (message === undefined) onFalse()
        else resolve((message.flags & dnsFlags.truncated) === 0 ? message : undefined)
      } catch {
        if (bytes.length >= 12 && bytes.readUInt16BE(0) === query.bytes.readUInt16BE(0) && (bytes.readUInt16BE(2) & dnsFlags.truncated) !== 0) resolve(undefined)
        else onFalse()
      }
    })
    socket.connect(server.port, server.address, () => socket.send(query.bytes, error => { if (error !== null) reject(error) }))
  })
}

async function exchangeOverTcp (options: ExchangeOptions): Promise<DnsMessage> {
  const { server } = options
  const query = prepareQuery(options)
  const socket = connect({ host: server.address, port: server.port })
  return await settleWithin(options, () => socket.destroy(), ({ resolve, reject }) => {
    let received: Buffer = Buffer.alloc(0)
    socket.on('error', reject)
    socket.on('end', () => reject(new Error('the name server ended the connection')))
    socket.on('data', chunk => {
      received = Buffer.concat([received, chunk])
      const size = received.length < 2 ? undefined : received.readUInt16BE(0)
      if (size === undefined || received.length < 2 + size) return
      try {
        const message = query.match(received.subarray(2, 2 + size))
        if (message === undefined) reject(new Error('the name server answered another question'))
        else resolve(message)
      } catch (error) {
        reject(error)
      }
    })
    socket.write(framed(query.bytes))
  })
}

/** RFC 1035, section 4.2.2: over TCP, a length stands before each message. */
export function framed (message: Buffer): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(message.length)
  return Buffer.concat([length, message])
}

interface Settling<T> {
  resolve: (value: T) => void
  reject: (error: unknown) => void
}

async function settleWithin<T> ({ timeoutMs, signal }: ExchangeOptions, release: () => void, start: (settling: Settling<T>) => void): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>()
  const timer = setTimeout(() => reject(new Error(`the name server does not answer within ${timeoutMs} ms`)), timeoutMs)
  const onAbort = (): void => reject(signal.reason)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    signal.throwIfAborted()
    start({ resolve, reject })
    return await promise
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
    release()
  }
}

/** Addresses are all that servers have: asking the system's resolver for them would only cost time. */
function lookupNothing (address: string, _options: unknown, callback: (error: null, address: string, family: number) => void): void {
  callback(null, address, isIPv6(address) ? 6 : 4)
}
