import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { responseOn, type Doorkeeper } from '../../routes/door.ts'
import { isProxied } from './proxy-path.ts'

/** An upgrade that waits for its host's answer. */
export interface PendingTunnel {
  socket: Duplex
  /** What the client sent behind its request. */
  head: Buffer
}

/**
 * Tells what is for a host apart where it comes in: its upgrades go to the router as the requests that they are, so that they are
 * admitted and refused as all others; and whether a body may be sent is for the host to say.
 */
export class ProxyDoor implements Doorkeeper {
  readonly #pending = new WeakMap<IncomingMessage, PendingTunnel>()

  shouldUpgrade ({ url = '', headers }: IncomingMessage): boolean {
    return headers.upgrade?.toLowerCase() !== 'h2c' && isProxied(url)
  }

  handleUpgrade (request: IncomingMessage, socket: Duplex, head: Buffer, handle: RequestListener): void {
    this.#pending.set(request, { socket, head })
    void handle(request, responseOn(request, socket as Socket))
  }

  handleContinue (request: IncomingMessage, response: ServerResponse, handle: RequestListener): void {
    if (!isProxied(request.url ?? '')) response.writeContinue()
    void handle(request, response as Parameters<typeof handle>[1])
  }

  /** The upgrade that a request asks for, if it is one. */
  pendingOf (request: IncomingMessage): PendingTunnel | undefined {
    return this.#pending.get(request)
  }
}
