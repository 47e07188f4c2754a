/**
 * A name server that knows what a test tells it, over UDP and TCP. Also a program, for tests in network namespaces:
 *
 *     node test/support/dns-authority.ts '{"address": "203.0.113.53", "port": 53, "names": {"example.test": ["203.0.113.10"]}}'
 *
 * says `ready` and then each question, one a line, as JSON; it ends with its standard input.
 */
import dnsPacket, { type Answer, type DecodedPacket, type Question } from 'dns-packet'
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { EventEmitter, once } from 'node:events'
import { createServer, isIPv4, type Server, type Socket } from 'node:net'

export interface AuthorityReply {
  answers?: Answer[]
  authorities?: Answer[]
  additionals?: Answer[]
  /** Response code; 0. */
  code?: number
  delayMs?: number
  /** No answer at all; `udp`: none over UDP. */
  isDropped?: boolean | 'udp'
  /** Over UDP, whatever the size; an answer that does not fit is truncated anyhow. */
  isTruncated?: boolean
  /** False answers before the true one: with another id, to another question, or from another port. */
  lies?: ('id' | 'question' | 'source')[]
  /** In place of all of that. */
  bytes?: Buffer
}

export interface AuthorityQuestion {
  name: string
  type: string
  id: number
  transport: 'udp' | 'tcp'
  sourcePort: number
  hasEdns: boolean
}

type Script = AuthorityReply | ((question: AuthorityQuestion) => AuthorityReply)

/** What registers a teardown: a TestContext, or something of a bench. */
interface Teardown {
  after: (release: () => void | Promise<void>) => void
}

const portAttempts = 20

export class DnsAuthority extends EventEmitter<{ question: [AuthorityQuestion] }> {
  readonly address: string
  /** All it was asked, oldest first. */
  readonly questions: AuthorityQuestion[] = []
  readonly #udp: UdpSocket
  readonly #tcp: Server
  readonly #connections = new Set<Socket>()
  readonly #scripts = new Map<string, Script>()
  #port = 0

  private constructor (address: string) {
    super()
    this.address = address
    this.#udp = createSocket(isIPv4(address) ? 'udp4' : 'udp6')
    this.#tcp = createServer(socket => this.#serve(socket))
  }

  /** Port 0: a free one, the same for UDP and TCP. */
  static async start (t: Teardown, { address = '127.0.0.1', port = 0 }: { address?: string, port?: number } = {}): Promise<DnsAuthority> {
    for (let attempt = 1; ; attempt++) {
      const authority = new DnsAuthority(address)
      try {
        await authority.#listen(port)
        t.after(async () => await authority.close())
        return authority
      } catch (error) {
        await authority.close()
        if (port !== 0 || attempt === portAttempts) throw error
      }
    }
  }

  get port (): number {
    return this.#port
  }

  /** As settings write it. */
  get server (): { address: string, port: number } {
    return { address: this.address, port: this.#port }
  }

  /** What it says from here on to a question; types by dns-packet's names, `UNKNOWN_<number>` for others. */
  reply (name: string, type: string, script: Script): this {
    this.#scripts.set(keyOf(name, type), script)
    return this
  }

  /** A name with these addresses, of both families, and with no record of another type. */
  name (name: string, addresses: readonly string[], ttl = 60): this {
    for (const type of ['A', 'AAAA'] as const) {
      const ofType = addresses.filter(address => isIPv4(address) === (type === 'A'))
      this.reply(name, type, ofType.length === 0 ? { authorities: [zone] } : { answers: ofType.map(data => ({ name, type, ttl, data })) })
    }
    return this
  }

  async close (): Promise<void> {
    for (const socket of this.#connections) socket.destroy()
    const ends = [new Promise<void>(resolve => this.#tcp.close(() => resolve()))]
    try {
      ends.push(new Promise<void>(resolve => { this.#udp.close(() => resolve()) }))
    } catch {
      // It is closed already.
    }
    await Promise.all(ends)
  }

  async #listen (port: number): Promise<void> {
    this.#udp.bind(port, this.address)
    await once(this.#udp, 'listening')
    this.#port = this.#udp.address().port
    this.#udp.on('message', (bytes, source) => this.#answerDatagram(bytes, source))
    this.#tcp.listen(this.#port, this.address)
    await once(this.#tcp, 'listening')
  }

  #answerDatagram (bytes: Buffer, source: RemoteInfo): void {
    const send = (answer: Buffer): void => this.#udp.send(answer, source.port, source.address, () => undefined)
    this.#answer(bytes, 'udp', source.port, (query, reply) => {
      if (reply.isDropped !== undefined) return
      for (const lie of reply.lies ?? []) this.#lie(lie, query, source, send)
      const whole = encode(query, reply)
      const limit = query.additionals?.find(record => record.type === 'OPT')?.udpPayloadSize ?? 512
      send(reply.isTruncated === true || whole.length > limit ? encode(query, { ...reply, answers: [], bytes: undefined }, dnsPacket.TRUNCATED_RESPONSE) : whole)
    })
  }

  #lie (lie: 'id' | 'question' | 'source', query: DecodedPacket, source: RemoteInfo, send: (answer: Buffer) => void): void {
    const name = query.questions?.[0]?.name ?? ''
    const lying: AuthorityReply = { answers: [{ name, type: 'A', ttl: 3_600, data: '203.0.113.66' }] }
    if (lie === 'id') return send(encode({ ...query, id: ((query.id ?? 0) + 1) & 0xffff }, lying))
    if (lie === 'question') return send(encode({ ...query, questions: [{ name: 'false.test', type: 'A' }] }, lying))
    const other = createSocket(this.#udp.address().family === 'IPv4' ? 'udp4' : 'udp6')
    other.send(encode(query, lying), source.port, source.address, () => other.close())
  }

  #serve (socket: Socket): void {
    this.#connections.add(socket)
    socket.once('close', () => this.#connections.delete(socket))
    socket.on('error', () => socket.destroy())
    let received: Buffer = Buffer.alloc(0)
    socket.on('data', chunk => {
      received = Buffer.concat([received, chunk])
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const size = 2 + received.readUInt16BE(0)
        this.#answer(received.subarray(2, size), 'tcp', socket.remotePort ?? 0, (query, reply) => {
          if (reply.isDropped !== true) socket.write(framed(encode(query, reply)))
        })
        received = received.subarray(size)
      }
    })
  }

  #answer (bytes: Buffer, transport: 'udp' | 'tcp', sourcePort: number, respond: (query: DecodedPacket, reply: AuthorityReply) => void): void {
    const query = dnsPacket.decode(bytes)
    const [{ name, type }] = query.questions as [Question]
    const hasEdns = (query.additionals ?? []).some(record => record.type === 'OPT')
    const question: AuthorityQuestion = { name, type, id: query.id ?? 0, transport, sourcePort, hasEdns }
    this.questions.push(question)
    this.emit('question', question)
    const script = this.#scripts.get(keyOf(name, type)) ?? { code: 3, authorities: [zone] }
    const reply = typeof script === 'function' ? script(question) : script
    if (reply.delayMs === undefined) respond(query, reply)
    else setTimeout(() => respond(query, reply), reply.delayMs).unref()
  }
}

const zone: Answer = { name: 'test', type: 'SOA', ttl: 60, data: { mname: 'ns.test', rname: 'root.test', serial: 1, refresh: 60, retry: 60, expire: 60, minimum: 30 } }

const keyOf = (name: string, type: string): string => `${type} ${name.toLowerCase()}`

function encode ({ id, questions }: DecodedPacket, { answers = [], authorities = [], additionals = [], code = 0, bytes }: AuthorityReply, flags = 0): Buffer {
  if (bytes !== undefined) return bytes
  // Objects of the script are copied: dns-packet may be asked to write them again.
  const sections = { questions, answers: [...answers], authorities: [...authorities], additionals: [...additionals] }
  return dnsPacket.encode({ type: 'response', id, flags: flags | code | dnsPacket.RECURSION_DESIRED | dnsPacket.RECURSION_AVAILABLE, ...sections })
}

function framed (message: Buffer): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(message.length)
  return Buffer.concat([length, message])
}

if (import.meta.main) {
  const { names = {}, ...options } = JSON.parse(process.argv[2] ?? '{}') as { address?: string, port?: number, names?: Record<string, string[]> }
  const authority = await DnsAuthority.start({ after: () => undefined }, options)
  for (const [name, addresses] of Object.entries(names)) authority.name(name, addresses)
  authority.on('question', question => process.stdout.write(`${JSON.stringify(question)}\n`))
  process.stdout.write('ready\n')
  process.stdin.on('end', () => process.exit()).resume()
}
