/** Attaches to terminals over a daemon's unix socket, counts what comes, and shows it on a screen as a person would see it. */
import assert from 'node:assert/strict'
import { createHash, type Hash } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import xterm from '@xterm/headless'
import { WebSocket } from 'ws'
import type { AttachEvent, Terminal, TerminalCreate, TerminalRole } from '../../src/schemas/terminal.ts'
import type { TestDaemon, Teardown } from './test-daemon.ts'

export interface AttachOptions {
  since?: number
  role?: TerminalRole
  cols?: number
  rows?: number
  /** Keep no bytes and no screen, only how many there were and their digest. */
  isCounting?: boolean
}

type EventOf<Kind extends AttachEvent['type']> = Extract<AttachEvent, { type: Kind }>

/** What came since a place in the output: one more after each gap. */
export interface Stretch {
  /** Absolute offset of its first byte. */
  offset: number
  bytes: Buffer
}

export const waitsMs = 15_000
const pieceBytes = 64 * 1024

/** Creates a terminal. */
export async function createTerminal (daemon: TestDaemon, sandboxId: string, input: Partial<TerminalCreate> = {}): Promise<Terminal> {
  const answer = await daemon.request<Terminal>('POST', `/v1/sandboxes/${sandboxId}/terminals`, input)
  assert.equal(answer.status, 201, answer.text)
  return answer.body
}

export async function readTerminal (daemon: TestDaemon, { sandboxId, id }: Pick<Terminal, 'sandboxId' | 'id'>): Promise<Terminal> {
  const answer = await daemon.request<Terminal>('GET', `/v1/sandboxes/${sandboxId}/terminals/${id}`)
  assert.equal(answer.status, 200, answer.text)
  return answer.body
}

/** Waits until it has ended. */
export async function untilEnded (daemon: TestDaemon, terminal: Pick<Terminal, 'sandboxId' | 'id'>): Promise<Terminal> {
  return await until('the terminal has ended', async () => {
    const now = await readTerminal(daemon, terminal)
    return now.status === 'ended' ? now : undefined
  })
}

export class AttachClient {
  readonly events: AttachEvent[] = []
  /** Code and reason of the socket's end. */
  readonly closed: Promise<{ code: number, reason: string }>
  readonly #socket: WebSocket
  readonly #screen: xterm.Terminal
  readonly #isCounting: boolean
  readonly #hash: Hash = createHash('sha256')
  readonly #stretches: Array<{ offset: number, pieces: Buffer[], length: number }> = []
  #wake = Promise.withResolvers<void>()
  #end: { code: number, reason: string } | undefined
  #received = 0

  private constructor (socket: WebSocket, { cols = 80, rows = 24, isCounting = false }: AttachOptions) {
    this.#socket = socket
    this.#isCounting = isCounting
    this.#screen = new xterm.Terminal({ cols, rows, scrollback: 2000, allowProposedApi: true, logLevel: 'off' })
    socket.on('message', (data: Buffer, isBinary) => isBinary ? this.#take(data) : this.#hear(JSON.parse(data.toString()) as AttachEvent))
    socket.on('error', () => {})
    this.closed = once(socket, 'close').then(([code, reason]: unknown[]) => {
      this.#end = { code: code as number, reason: String(reason) }
      this.#stir()
      return this.#end
    })
  }

  /** Attaches, and waits for the first event. The test's end cuts it off. */
  static async attach (t: Teardown, daemon: Pick<TestDaemon, 'socketPath'>, terminal: Pick<Terminal, 'sandboxId' | 'id'>, options: AttachOptions = {}): Promise<AttachClient> {
    const client = AttachClient.open(daemon, terminal, options)
    t.after(async () => client.cut())
    await client.waitForEvent('ready')
    return client
  }

  /** Attaches without waiting for anything. Whoever calls cuts it off. */
  static open ({ socketPath }: Pick<TestDaemon, 'socketPath'>, { sandboxId, id }: Pick<Terminal, 'sandboxId' | 'id'>, options: AttachOptions = {}): AttachClient {
    const query = new URLSearchParams()
    for (const name of ['since', 'role', 'cols', 'rows'] as const) if (options[name] !== undefined) query.set(name, String(options[name]))
    const path = `/v1/sandboxes/${sandboxId}/terminals/${id}/attach${query.size > 0 ? `?${query}` : ''}`
    return new AttachClient(new WebSocket(`ws+unix://${socketPath}:${path}`, { perMessageDeflate: false }), options)
  }

  /** Absolute offset behind the last byte that came. */
  get offset (): number {
    const last = this.#stretches.at(-1)
    return last === undefined ? 0 : last.offset + last.length
  }

  /** How many bytes of output came, gaps not counted. */
  get received (): number {
    return this.#received
  }

  /** Digest of all bytes of output, in the order in which they came. */
  get digest (): string {
    return this.#hash.copy().digest('hex')
  }

  get stretches (): Stretch[] {
    return this.#stretches.map(({ offset, pieces }) => ({ offset, bytes: Buffer.concat(pieces) }))
  }

  /** All bytes of output; there must have been no gap. */
  get bytes (): Buffer {
    assert.deepEqual(this.eventsOf('gap'), [], 'no gap')
    return Buffer.concat(this.#stretches.flatMap(({ pieces }) => pieces))
  }

  get text (): string {
    return this.bytes.toString()
  }

  get size (): { cols: number, rows: number } {
    return { cols: this.#screen.cols, rows: this.#screen.rows }
  }

  get isClosed (): boolean {
    return this.#end !== undefined
  }

  eventsOf<Kind extends AttachEvent['type']> (kind: Kind): Array<EventOf<Kind>> {
    return this.events.filter((event): event is EventOf<Kind> => event.type === kind)
  }

  /** What a person sees: the lines of the screen, without spaces at their ends. */
  async lines (): Promise<string[]> {
    await new Promise<void>(resolve => this.#screen.write('', resolve))
    const { buffer: { active }, rows } = this.#screen
    return Array.from({ length: rows }, (_, row) => active.getLine(active.baseY + row)?.translateToString(true).trimEnd() ?? '')
  }

  /** The cell in a row and column of the screen, from 0. */
  async cell (row: number, column: number) {
    await this.lines()
    const { active } = this.#screen.buffer
    const cell = active.getLine(active.baseY + row)?.getCell(column)
    assert.ok(cell, `there is a cell ${row}:${column}`)
    return { text: cell.getChars(), width: cell.getWidth(), foreground: cell.getFgColor(), isInverse: cell.isInverse() !== 0, isBold: cell.isBold() !== 0 }
  }

  /** Where the cursor is, from 0. */
  async cursor (): Promise<{ row: number, column: number }> {
    await this.lines()
    const { cursorX, cursorY } = this.#screen.buffer.active
    return { row: cursorY, column: cursorX }
  }

  /** Sends input. */
  type (input: string | Buffer): void {
    this.#socket.send(Buffer.from(input as string), { binary: true })
  }

  /** Sends much input in pieces, and waits until the connection has taken it all. */
  async paste (input: Buffer): Promise<void> {
    for (let at = 0; at < input.length; at += pieceBytes) {
      await new Promise<void>((resolve, reject) => this.#socket.send(input.subarray(at, at + pieceBytes), { binary: true }, error => error ? reject(error) : resolve()))
    }
  }

  resize (cols: number, rows: number): void {
    this.#socket.send(JSON.stringify({ type: 'resize', cols, rows }))
  }

  sendText (text: string): void {
    this.#socket.send(text)
  }

  /** Reads nothing more from the connection until `flow`. */
  stall (): void {
    this.#socket.pause()
  }

  flow (): void {
    this.#socket.resume()
  }

  /** Ends the connection as a client does that says so. */
  async close (): Promise<void> {
    this.#socket.close(1000)
    await this.closed
  }

  /** Ends the connection as a network does. */
  cut (): void {
    this.#socket.terminate()
    this.#screen.dispose()
  }

  async waitForEvent<Kind extends AttachEvent['type']> (kind: Kind): Promise<EventOf<Kind>> {
    return await this.waitFor(`an event ${kind}`, () => this.eventsOf(kind)[0])
  }

  /** Waits until the screen shows it. */
  async waitForText (wanted: string | RegExp): Promise<string[]> {
    return await this.waitForScreen(String(wanted), lines => {
      const screen = lines.join('\n')
      return typeof wanted === 'string' ? screen.includes(wanted) : wanted.test(screen)
    })
  }

  async waitForScreen (what: string, isSo: (lines: string[]) => boolean): Promise<string[]> {
    return await this.waitFor(`the screen shows ${what}`, async () => {
      const lines = await this.lines()
      return isSo(lines) ? lines : undefined
    })
  }

  /** Waits until the bytes that came hold it; what a screen has forgotten is found too. */
  async waitForOutput (wanted: string | RegExp): Promise<void> {
    await this.waitFor(`the output has ${wanted}`, () => {
      const text = this.stretches.map(({ bytes }) => bytes.toString('latin1')).join('')
      return (typeof wanted === 'string' ? text.includes(wanted) : wanted.test(text)) || undefined
    })
  }

  /** Runs a line in the shell that it shows, and answers what it printed. */
  async run (line: string): Promise<string> {
    const mark = Math.random().toString(36).slice(2, 10).padEnd(8, '0')
    const [begin, end] = [`begin${mark}`, `end${mark}`]
    const before = this.received
    // The marks are not in what is typed, so that its echo is not taken for them.
    this.type(`s=$?; echo be''gin${mark}; (exit $s); ${line}; echo en''d${mark}\r`)
    const read = () => Buffer.concat(this.#stretches.flatMap(({ pieces }) => pieces)).subarray(before).toString()
    const text = await this.waitFor(`the shell has run ${line}`, () => read().includes(end) ? read() : undefined)
    return text.slice(text.indexOf('\n', text.indexOf(begin)) + 1, text.indexOf(end)).replaceAll(/\r+\n/g, '\n')
  }

  /** Looks each time something came. @throws AssertionError with the screen when it does not come true. */
  async waitFor<Value> (what: string, look: () => Value | undefined | Promise<Value | undefined>, timeoutMs = waitsMs): Promise<Value> {
    const until = Date.now() + timeoutMs
    for (;;) {
      const wake = this.#wake.promise
      const hasEnded = this.#end !== undefined
      const value = await look()
      if (value !== undefined) return value
      const left = until - Date.now()
      if (left <= 0 || hasEnded) {
        const lines = await this.lines()
        assert.fail(`${what}: not so; ${this.#end ? `closed with ${this.#end.code} ${this.#end.reason}, ` : ''}events ${JSON.stringify(this.events).slice(-600)}, the screen:\n${lines.join('\n').trimEnd()}`)
      }
      await Promise.race([wake, delay(Math.min(left, 250), undefined, { ref: true })])
    }
  }

  #take (data: Buffer): void {
    const stretch = this.#stretches.at(-1)
    assert.ok(stretch, 'output comes after ready')
    this.#received += data.length
    stretch.length += data.length
    if (this.#isCounting) this.#hash.update(data)
    else {
      stretch.pieces.push(data)
      this.#screen.write(data)
    }
    this.#stir()
  }

  #hear (event: AttachEvent): void {
    this.events.push(event)
    if (event.type === 'ready') {
      this.#stretches.push({ offset: event.offset, pieces: [], length: 0 })
      this.#screen.resize(event.cols, event.rows)
    } else if (event.type === 'gap') {
      assert.equal(event.offset - event.bytes, this.offset, 'a gap begins where the output ended')
      this.#stretches.push({ offset: event.offset, pieces: [], length: 0 })
    } else if (event.type === 'screen') {
      const last = this.#stretches.at(-1)
      assert.ok(last, 'a screen comes after ready')
      // Without since, ready says where the screen will be.
      assert.equal(event.offset, this.offset, 'a screen is of where the output goes on')
      this.#screen.reset()
      this.#screen.resize(event.cols, event.rows)
      this.#screen.write(event.data)
    } else if (event.type === 'resize') this.#screen.resize(event.cols, event.rows)
    this.#stir()
  }

  #stir (): void {
    this.#wake.resolve()
    this.#wake = Promise.withResolvers()
  }
}

/** Looks again and again until there is an answer. */
export async function until<Value> (what: string, look: () => Promise<Value | undefined>, timeoutMs = waitsMs): Promise<Value> {
  const end = Date.now() + timeoutMs
  for (;;) {
    const value = await look()
    if (value !== undefined) return value
    assert.ok(Date.now() < end, `${what}: not so in time`)
    await delay(50)
  }
}
