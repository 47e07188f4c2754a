import { chmodSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import type { Logger } from 'pino'
import { BerthError } from '../../../errors.ts'
import { errorFacts } from '../../../lib/error-facts.ts'
import { raceWithDelay } from '../../../lib/race.ts'
import { PtyConnection } from './pty-connection.ts'
import { decodeJson, type PtyFrame } from './pty-frames.ts'
import { frameKinds, type PtyCreate, type PtyRequest } from './pty-protocol.ts'
import { PtyTerminal } from './pty-terminal.ts'
import type { ScreenKeeper } from './screen-keeper.ts'

export interface PtyServerOptions {
  socketPath: string
  screens: ScreenKeeper
  logger: Logger
}

/** Serves one daemon at a time; the terminals stay when it goes, and the next one finds them. */
export class PtyServer {
  readonly #options: PtyServerOptions
  readonly #server: Server
  readonly #terminals = new Map<string, PtyTerminal>()
  #connection: PtyConnection | undefined

  constructor (options: PtyServerOptions) {
    this.#options = options
    this.#server = createServer(socket => this.#serve(socket))
  }

  async listen (): Promise<void> {
    const { socketPath } = this.#options
    // What a server that was killed has left.
    rmSync(socketPath, { force: true })
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(socketPath, resolve)
    })
    chmodSync(socketPath, 0o600)
  }

  /** Hangs up all terminals and waits for their programs to end, the second half of the time for those that had to be killed. */
  async close (graceMs: number): Promise<void> {
    this.#server.close()
    for (const isForced of [false, true]) {
      for (const terminal of this.#terminals.values()) terminal.hangUp(isForced)
      await raceWithDelay(graceMs / 2, [Promise.all([...this.#terminals.values()].map(({ ended }) => ended))])
    }
    this.#connection?.close()
  }

  /** One that connects is the daemon; an earlier one is dead, or ought to be. */
  #serve (socket: Socket): void {
    this.#connection?.close()
    const connection = new PtyConnection({
      socket,
      onFrame: frame => this.#take(connection, frame),
      offsetOf: id => this.#terminals.get(id)?.status.offset,
      onClosed: error => {
        if (error) this.#options.logger.warn({ err: error }, 'the connection to the daemon has failed')
        if (this.#connection === connection) this.#connection = undefined
      },
    })
    this.#connection = connection
  }

  #take (connection: PtyConnection, frame: PtyFrame): void {
    const { kind, terminalId, payload } = frame
    if (kind === frameKinds.input) {
      const terminal = this.#terminals.get(terminalId)
      if (terminal) terminal.input(connection, Buffer.from(payload))
      else connection.taken(terminalId, payload.length)
    } else if (kind === frameKinds.request) {
      void this.#answer(connection, terminalId, decodeRequest(frame))
    } else {
      throw new BerthError('invalid_argument', 'invalid_frame', `a daemon sends no frames of kind ${kind}; it may be of another version: restart Berth`)
    }
  }

  async #answer (connection: PtyConnection, terminalId: string, request: PtyRequest): Promise<void> {
    const { id } = request
    try {
      // In this very turn, where it can be: output from here on comes behind the answer.
      const result = this.#perform(connection, terminalId, request)
      connection.answer(terminalId, { id, result: result instanceof Promise ? await result : result })
    } catch (error) {
      const { kind, code, message } = errorFacts(error)
      if (kind === 'internal') this.#options.logger.error({ err: error, terminalId, op: request.op }, 'a request has failed')
      connection.answer(terminalId, { id, error: { code, message } })
    }
  }

  #perform (connection: PtyConnection, terminalId: string, request: PtyRequest): unknown {
    switch (request.op) {
      case 'list': return [...this.#terminals.values()].map(({ status }) => status)
      case 'create': return this.#create(terminalId, request)
      case 'resize': return this.#get(terminalId).resize(request.cols, request.rows)
      case 'hangUp': return this.#get(terminalId).hangUp(request.force)
      case 'subscribe': {
        const offset = this.#get(terminalId).settle()
        connection.subscribe(terminalId)
        return { offset }
      }
      case 'unsubscribe': return connection.unsubscribe(terminalId)
      case 'screen': return this.#get(terminalId).screen()
      case 'forget': return this.#forget(terminalId)
      default: throw new BerthError('invalid_argument', 'unknown_operation', 'the pty-host knows no such operation; it may be of another version: restart Berth')
    }
  }

  #create (id: string, create: PtyCreate): unknown {
    if (this.#terminals.has(id)) throw new BerthError('conflict', 'terminal_exists', 'there is a terminal of this id already')
    const terminal = new PtyTerminal({
      id,
      create,
      screens: this.#options.screens,
      logger: this.#options.logger,
      onOutput: (offset, bytes, release) => this.#connection ? this.#connection.output(id, offset, bytes, release) : release(),
      onTaken: (sender, bytes) => { if (sender === this.#connection) this.#connection?.taken(id, bytes) },
      onEnded: end => {
        this.#options.logger.info({ terminalId: id, ...end }, 'a terminal has ended')
        this.#connection?.ended(id, end)
      },
    })
    this.#terminals.set(id, terminal)
    const { status } = terminal
    this.#options.logger.info({ terminalId: id, pid: status.pid }, 'a terminal has begun')
    return status
  }

  #forget (id: string): void {
    const terminal = this.#terminals.get(id)
    if (!terminal) return
    if (!terminal.status.end) throw new BerthError('conflict', 'terminal_running', 'the terminal has not ended; hang it up first')
    terminal.release()
    this.#terminals.delete(id)
  }

  #get (id: string): PtyTerminal {
    const terminal = this.#terminals.get(id)
    if (!terminal) throw new BerthError('not_found', 'terminal_not_found', 'the pty-host has no terminal of this id')
    return terminal
  }
}

function decodeRequest (frame: PtyFrame): PtyRequest {
  const request = decodeJson(frame) as Partial<PtyRequest> | null
  if (typeof request?.id !== 'number') throw new BerthError('invalid_argument', 'invalid_frame', 'a request without an id came from the daemon; it may be of another version: restart Berth')
  return request as PtyRequest
}
