import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { responseOn, type Doorkeeper } from '../routes/door.ts'

/** What an upgrade leaves behind for whoever accepts it. */
export interface PendingUpgrade {
  socket: Duplex
  /** What the client sent behind its request. */
  head: Buffer
}

/**
 * Tells upgrades apart where they come in, for every door alike: some are passed on, as previews are to the program in the sandbox; those to
 * a WebSocket of the API go to the router, as the requests that they are. So a socket is authenticated, checked and refused by what
 * does that for REST, in the same words; its route takes the connection over only when nothing speaks against it.
 *
 * @fastify/websocket works likewise, but hears only the one server that Fastify made; here there are three.
 */
export class UpgradeKeeper implements Doorkeeper {
  /** For what is passed on: to programs in sandboxes, and to hosts. */
  readonly #passing: Doorkeeper | undefined
  /** The paths of the API's WebSockets: filled when their routes are registered. */
  readonly #paths: RegExp[] = []
  /** The paths on which a PUT gets the leave to send its body from the route. */
  readonly #patient: RegExp[] = []
  readonly #pending = new WeakMap<IncomingMessage, PendingUpgrade>()

  constructor (options: { passing?: Doorkeeper | undefined } = {}) {
    this.#passing = options.passing
  }

  /** Makes a route one of a WebSocket. `pattern` is the router's: `/v1/sandboxes/:id/logs/ws`. */
  add (pattern: string): void {
    this.#paths.push(pathOf(pattern))
  }

  /** Lets the routes of a pattern say for themselves when a PUT may send the body that waits for leave. */
  addPatient (pattern: string): void {
    this.#patient.push(pathOf(pattern))
  }

  /** What is left is answered as if no upgrade had been asked for. */
  shouldUpgrade (request: IncomingMessage): boolean {
    return this.#passing?.shouldUpgrade(request) === true || this.#isSocket(request)
  }

  handleUpgrade (request: IncomingMessage, socket: Duplex, head: Buffer, handle: RequestListener): void {
    // A preview's host name makes every path its own.
    if (this.#passing?.shouldUpgrade(request)) return this.#passing.handleUpgrade(request, socket, head, handle)
    this.#pending.set(request, { socket, head })
    void handle(request, responseOn(request, socket as Socket))
  }

  handleContinue (request: IncomingMessage, response: ServerResponse, handle: RequestListener): void {
    if (request.method === 'PUT' && this.#patient.some(path => path.test(request.url ?? ''))) return void handle(request, response as Parameters<typeof handle>[1])
    if (this.#passing) return this.#passing.handleContinue(request, response, handle)
    response.writeContinue()
    void handle(request, response as Parameters<typeof handle>[1])
  }

  /** The upgrade that a request asks for, if it is one. */
  pendingOf (request: IncomingMessage): PendingUpgrade | undefined {
    return this.#pending.get(request)
  }

  #isSocket ({ method, url = '', headers }: IncomingMessage): boolean {
    return method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket' && this.#paths.some(path => path.test(url))
  }
}

function pathOf (pattern: string): RegExp {
  return new RegExp(`^${pattern.replaceAll(/:[^/]+/g, '[^/?]+')}(?=\\?|$)`)
}
