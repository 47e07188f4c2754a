/** A real pty-host on directories of its own, and a daemon's end of its socket. */
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { endServerProcess, startServerProcess, type ServerProcess } from '../../src/host/server-process.ts'
import { randomId } from '../../src/lib/id.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { OutputReader } from '../../src/services/terminals/output-reader.ts'
import { decodeAdvanced, decodeJson, decodeOutput, decodeTaken, encodeFrame, encodeJsonFrame, FrameReader, type PtyFrame } from '../../src/services/terminals/server/pty-frames.ts'
import { frameKinds, type PtyAnswer, type PtyCreate, type PtyEnd, type PtyOperation, type PtyStatus } from '../../src/services/terminals/server/pty-protocol.ts'

const script = fileURLToPath(new URL('../../src/pty-host.ts', import.meta.url))
const timeoutMs = 20_000

/** What one terminal sent on this connection. */
export interface HeardTerminal {
  /** Output as it came, each piece at its offset. */
  pieces: { offset: number, bytes: Buffer }[]
  advanced: number[]
  taken: number
  end?: PtyEnd
}

export class PtyHostRig {
  readonly root: string
  readonly dir: string
  server: ServerProcess | undefined
  readonly #clients: PtyClient[] = []

  private constructor (root: string) {
    this.root = root
    this.dir = join(root, 'host')
  }

  static async start (t: TestContext): Promise<PtyHostRig> {
    const root = await mkdtemp(join(tmpdir(), 'berth-pty-'))
    const rig = new PtyHostRig(root)
    t.after(() => rig.close())
    await mkdir(rig.dir)
    const settings = JSON.stringify({ version: 'test', logLevel: 'info' })
    rig.server = await startServerProcess({ command: [process.execPath, script], settings, dir: rig.dir, logPath: join(root, 'log') })
    await until(async () => await stat(join(rig.dir, 'control.sock')).then(found => (found.mode & 0o777) === 0o600, () => false), 'the socket is there')
    return rig
  }

  get pid (): number {
    return this.server?.identity.pid ?? -1
  }

  async connect (): Promise<PtyClient> {
    const socket = connect(join(this.dir, 'control.sock'))
    await once(socket, 'connect')
    const client = new PtyClient(socket, this.root)
    this.#clients.push(client)
    return client
  }

  reader (id: string): OutputReader {
    return new OutputReader(join(this.root, id))
  }

  async close (): Promise<void> {
    for (const client of this.#clients) client.close()
    if (this.server) await endServerProcess(this.server.identity)
    await rm(this.root, { recursive: true, force: true })
  }
}

export class PtyClient {
  readonly socket: Socket
  readonly heard = new Map<string, HeardTerminal>()
  readonly #root: string
  readonly #reader = new FrameReader()
  readonly #answers = new Map<number, PromiseWithResolvers<unknown>>()
  #lastId = 0
  isClosed = false
  onOutput: ((id: string, bytes: Buffer) => void) | undefined

  constructor (socket: Socket, root: string) {
    this.socket = socket
    this.#root = root
    socket.on('data', (chunk: Buffer) => { this.#reader.push(chunk, frame => this.#take({ ...frame, payload: Buffer.from(frame.payload) })) })
    socket.on('error', () => {})
    socket.on('close', () => {
      this.isClosed = true
      for (const answer of this.#answers.values()) answer.reject(new Error('the connection was closed'))
    })
  }

  async request<T> (terminalId: string, operation: PtyOperation): Promise<T> {
    const id = ++this.#lastId
    const answer = Promise.withResolvers<unknown>()
    this.#answers.set(id, answer)
    this.socket.write(encodeJsonFrame(frameKinds.request, terminalId, { id, ...operation }))
    return await answer.promise as T
  }

  /** Starts a program and, where nothing else is said, listens to its output from the first byte on. */
  async create (argv: string[], options: Partial<PtyCreate> & { isHeard?: boolean } = {}): Promise<string> {
    const { isHeard = true, ...rest } = options
    const id = randomId('trm')
    this.of(id)
    const created = this.request(id, { op: 'create', argv, dir: join(this.#root, id), cols: 80, rows: 24, windowBytes: 8 * 1024 ** 2, ...rest })
    const heard = isHeard ? this.request(id, { op: 'subscribe' }) : undefined
    await Promise.all([created, heard])
    return id
  }

  input (id: string, bytes: string | Buffer): void {
    this.socket.write(encodeFrame(frameKinds.input, id, Buffer.from(bytes)))
  }

  of (id: string): HeardTerminal {
    const heard = this.heard.get(id) ?? { pieces: [], advanced: [], taken: 0 }
    this.heard.set(id, heard)
    return heard
  }

  text (id: string): string {
    return Buffer.concat(this.of(id).pieces.map(({ bytes }) => bytes)).toString('utf8')
  }

  async ended (id: string): Promise<PtyEnd> {
    await until(async () => this.of(id).end !== undefined, `the end of ${id}`)
    return this.of(id).end!
  }

  async says (id: string, text: string): Promise<void> {
    await until(async () => this.text(id).includes(text), `${id} says ${text}; it said ${this.text(id).slice(-500)}`)
  }

  async list (): Promise<PtyStatus[]> {
    return await this.request('', { op: 'list' })
  }

  close (): void {
    this.socket.destroy()
  }

  #take (frame: PtyFrame): void {
    const heard = this.of(frame.terminalId)
    if (frame.kind === frameKinds.output) {
      const piece = decodeOutput(frame)
      heard.pieces.push(piece)
      this.onOutput?.(frame.terminalId, piece.bytes)
    } else if (frame.kind === frameKinds.advanced) {
      heard.advanced.push(decodeAdvanced(frame))
    } else if (frame.kind === frameKinds.taken) {
      heard.taken += decodeTaken(frame)
    } else if (frame.kind === frameKinds.ended) {
      heard.end = decodeJson(frame) as PtyEnd
    } else {
      const answer = decodeJson(frame) as PtyAnswer
      const waiting = this.#answers.get(answer.id)
      this.#answers.delete(answer.id)
      if ('error' in answer) waiting?.reject(Object.assign(new Error(answer.error.message), { code: answer.error.code }))
      else waiting?.resolve(answer.result)
    }
  }
}

/** Waits for what must come; throws when it does not. */
export async function until (isTrue: () => Promise<boolean>, what: string): Promise<void> {
  if (!await pollUntil(isTrue, timeoutMs)) throw new Error(`waited in vain: ${what}`)
}
