/** One viewer's connection to a terminal: comes back by itself, at the byte where it was cut off. Knows nothing of how output is shown. */
import { signal } from '@preact/signals'
import type { AttachEvent, Terminal, TerminalRole } from '../../schemas/terminal.ts'
import type { Ticket, TicketCreate } from '../../schemas/ticket.ts'
import { ApiError, formatQuery, messageOf, type ApiClient } from './api-client.ts'
import { retryDelayMs, sleep } from './retry-delay.ts'

export interface TerminalSize {
  cols: number
  rows: number
}

/** Where output goes. */
export interface TerminalSink {
  /** Empty the screen, take this size, and paint this. */
  paint: (size: TerminalSize, data: string) => void
  /** `isReplay`: it was written before this attachment, so its questions to the terminal were answered then. Calls `done` when it is shown. */
  write: (bytes: Uint8Array, isReplay: boolean, done: () => void) => void
  resize: (size: TerminalSize) => void
  /** So many bytes will never come; a `paint` follows. */
  skip: (bytes: number) => void
  /** What the terminal's size should be; undefined to leave it as it is. */
  wantedSize: () => TerminalSize | undefined
}

export type ConnectionState = 'connecting' | 'attached' | 'lost' | 'ended' | 'refused'

export interface TerminalConnectionOptions {
  client: ApiClient
  sandboxId: string
  terminalId: string
  role: TerminalRole
  sink: TerminalSink
  /** The first byte that the sink lacks; without it the present screen is painted. */
  since?: number
  /** Beginning of the addresses of sockets, as `ws://127.0.0.1:7070`, with no slash at its end. */
  base: string
  WebSocket?: typeof WebSocket
}

// Beyond this the browser is too slow for the program: better to come back later than to fill its memory.
const mostPendingBytes = 8 * 1024 * 1024
const enoughTakenBytes = 1024 * 1024
const inputFrameBytes = 64 * 1024
const normalClosure = 1000
const firstRefusal = 4400
const tryAgainLater = 1013

export class TerminalConnection {
  readonly state = signal<ConnectionState>('connecting')
  /** Why it is as it is, where there is more to say. */
  readonly message = signal('')
  readonly terminal = signal<Terminal | undefined>(undefined)
  /** How it ended. */
  readonly end = signal<Extract<AttachEvent, { type: 'exit' }> | undefined>(undefined)
  /** How far the sink has shown the output: a later connection may begin here. */
  shownOffset: number | undefined
  readonly #options: TerminalConnectionOptions
  readonly #closing = new AbortController()
  #waiting = new AbortController()
  #socket: WebSocket | undefined
  #offset: number | undefined
  #liveFrom = 0
  #pendingBytes = 0

  constructor (options: TerminalConnectionOptions) {
    this.#options = options
    this.#offset = options.since
    this.shownOffset = options.since
  }

  /** Attaches, again and again, until the terminal has ended, this is refused, or `close` is called. */
  async run (): Promise<void> {
    for (let failures = 0; !this.#closing.signal.aborted; failures++) {
      try {
        const wasAttached = await this.#attachOnce()
        if (this.state.value === 'ended' || this.state.value === 'refused') return
        if (wasAttached) failures = -1
      } catch (error) {
        if (error instanceof ApiError && !error.isUnreachable && error.status < 500 && error.status !== 429) return this.#refuse(messageOf(error))
      }
      if (this.#closing.signal.aborted) return
      this.state.value = 'lost'
      this.#waiting = new AbortController()
      await sleep(retryDelayMs(Math.max(0, failures)), AbortSignal.any([this.#waiting.signal, this.#closing.signal]))
      while (this.#pendingBytes > enoughTakenBytes && !this.#closing.signal.aborted) await sleep(50, this.#closing.signal)
    }
  }

  /** Does not wait for the next try any longer. */
  retryNow (): void {
    if (this.state.value === 'lost') this.#waiting.abort()
  }

  /** Whether it was sent: what is typed while nobody is there is dropped, since nobody could see what it does. */
  send (bytes: Uint8Array): boolean {
    const socket = this.#socket
    if (socket === undefined || this.state.value !== 'attached' || this.#options.role === 'read') return false
    for (let from = 0; from < bytes.length; from += inputFrameBytes) socket.send(bytes.slice(from, from + inputFrameBytes))
    return true
  }

  resize ({ cols, rows }: TerminalSize): void {
    if (this.state.value === 'attached' && this.#options.role === 'write') this.#socket?.send(JSON.stringify({ type: 'resize', cols, rows }))
  }

  close (): void {
    this.#closing.abort()
    this.#socket?.close(normalClosure)
  }

  #refuse (message: string): void {
    this.message.value = message
    this.state.value = 'refused'
  }

  /** Resolves when the socket is closed, to whether it had been open. */
  async #attachOnce (): Promise<boolean> {
    const { client, sandboxId, terminalId, sink, role } = this.#options
    const signal = this.#closing.signal
    const terminal = await client.get<Terminal>(`/v1/sandboxes/${sandboxId}/terminals/${terminalId}`, undefined, signal)
    this.terminal.value = terminal
    this.#liveFrom = terminal.output.endOffset
    if (this.#offset !== undefined && this.#offset > terminal.output.endOffset) this.#offset = undefined
    const size = role === 'write' && terminal.status !== 'ended' ? sink.wantedSize() : undefined
    const { query, protocols } = await this.#admission()
    if (signal.aborted) return false
    const asked = formatQuery({ role, since: this.#offset, cols: size?.cols, rows: size?.rows, ...query })
    const address = `${this.#options.base}/v1/sandboxes/${sandboxId}/terminals/${terminalId}/attach${asked}`
    return await this.#talk(new (this.#options.WebSocket ?? WebSocket)(address, protocols))
  }

  /** A ticket, which is good for this once. A token that may only read cannot make one, and goes where headers would. */
  async #admission (): Promise<{ query: { ticket?: string }, protocols?: string[] }> {
    const { client, sandboxId, terminalId, role } = this.#options
    const wanted: Partial<TicketCreate> = { scope: 'terminal', sandboxId, terminalId, role }
    try {
      const { ticket } = await client.post<Ticket>('/v1/tickets', wanted)
      return { query: { ticket } }
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 403) throw error
      return { query: {}, protocols: ['berth.v1', `bearer.${client.token}`] }
    }
  }

  #talk (socket: WebSocket): Promise<boolean> {
    this.#socket = socket
    socket.binaryType = 'arraybuffer'
    let isOpen = false
    return new Promise(resolve => {
      socket.addEventListener('open', () => { isOpen = true })
      socket.addEventListener('message', ({ data }) => {
        if (this.#socket !== socket) return
        if (typeof data === 'string') this.#receiveEvent(JSON.parse(data) as AttachEvent)
        else this.#receiveOutput(socket, new Uint8Array(data as ArrayBuffer))
      })
      socket.addEventListener('close', ({ code, reason }) => {
        if (this.#socket === socket) this.#socket = undefined
        if (code >= firstRefusal && this.state.value !== 'ended') this.#refuse(reason === '' ? `closed with ${code}` : reason)
        resolve(isOpen && code !== tryAgainLater)
      })
    })
  }

  #receiveOutput (socket: WebSocket, bytes: Uint8Array): void {
    const offset = (this.#offset ?? 0) + bytes.length
    const isReplay = offset <= this.#liveFrom
    this.#offset = offset
    this.#pendingBytes += bytes.length
    this.#options.sink.write(bytes, isReplay, () => {
      this.#pendingBytes -= bytes.length
      this.shownOffset = offset
    })
    if (this.#pendingBytes <= mostPendingBytes) return
    this.#socket = undefined
    socket.close(normalClosure)
  }

  #receiveEvent (event: AttachEvent): void {
    const { sink } = this.#options
    switch (event.type) {
      case 'ready':
        this.#offset = event.offset
        this.state.value = 'attached'
        this.message.value = ''
        return sink.resize(event)
      case 'screen':
        this.#offset = event.offset
        this.shownOffset = event.offset
        return sink.paint(event, event.data)
      case 'gap':
        this.#offset = event.offset
        return sink.skip(event.bytes)
      case 'resize': return sink.resize(event)
      case 'exit':
        this.end.value = event
        this.state.value = 'ended'
        return
      case 'error': this.message.value = event.message
    }
  }
}
