/** Previews: ports of sandboxes over HTTP, under a path of the API or under a host name of their own. */
import { randomUUID } from 'node:crypto'
import { METHODS, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import { BerthError, toBerthError } from '../errors.ts'
import type { PreviewCall } from '../services/network/preview-forwarder.ts'
import { responseOn } from './door.ts'
import { errorBody, hostStopping, statusOf } from './http-errors.ts'
import { admit, type Admission, type PreviewAccessOptions } from './preview-access.ts'
import { waitingPage, waitingPageHeaders } from './preview-page.ts'
import { previewPlace, type PreviewPlace } from './preview-place.ts'

/** What carries the bytes. */
export interface Forwarder {
  forward: (request: IncomingMessage, response: ServerResponse, call: PreviewCall) => Promise<void>
  upgrade: (request: IncomingMessage, response: ServerResponse, socket: Duplex, head: Buffer, call: PreviewCall) => Promise<void>
}

export interface PreviewGateOptions extends PreviewAccessOptions {
  forwarder: Forwarder
  /** Aborted when the daemon ends: upgraded connections, which have no end of their own, end with it. */
  closing: AbortSignal
  /** Aborted when the grace of a daemon that ends is over: answers under way are broken off. */
  forcing: AbortSignal
  log: { error: (facts: object, message: string) => void }
}

/** The one route that previews have inside. No client gets there by naming it: a request is marked when it comes in. */
const route = '/-/preview'

/**
 * Tells previews from the API where requests come in, before anything reads their path, and lets them pass.
 * Both of the daemon's servers go by it: `rewriteUrl` and `shouldUpgrade` are asked, `handleContinue` and `handleUpgrade` do.
 */
export class PreviewGate {
  readonly #options: PreviewGateOptions
  readonly #places = new WeakMap<IncomingMessage, PreviewPlace>()

  constructor (options: PreviewGateOptions) {
    this.#options = options
  }

  /** The path under which the router knows a request. */
  rewriteUrl (request: IncomingMessage): string {
    const place = previewPlace(request, this.#options.previewDomain)
    if (!place) return request.url ?? '/'
    this.#places.set(request, place)
    return route
  }

  /** Whether an upgrade is wanted where one can be had: elsewhere, and to HTTP/2, requests are answered as if they had not asked. */
  shouldUpgrade (request: IncomingMessage): boolean {
    return request.headers.upgrade?.toLowerCase() !== 'h2c' && previewPlace(request, this.#options.previewDomain) !== undefined
  }

  /** A program in a sandbox says for itself whether it wants a body. */
  handleContinue (request: IncomingMessage, response: ServerResponse, handle: RequestListener<typeof IncomingMessage, typeof ServerResponse>): void {
    if (!previewPlace(request, this.#options.previewDomain)) response.writeContinue()
    void handle(request, response as Parameters<typeof handle>[1])
  }

  /** Answers a preview, or rejects before anything of an answer was sent. */
  async pass (request: IncomingMessage, response: ServerResponse, hijack: () => void): Promise<void> {
    const place = this.#places.get(request)
    if (!place) throw new BerthError('not_found', 'route_not_found', 'there is no such path; /docs lists what there is')
    const admission = this.#admit(request, place)
    if (!admission.isAdmitted) {
      hijack()
      return lead(response, admission)
    }
    const cut = () => request.socket.destroy()
    const { forcing } = this.#options
    forcing.addEventListener('abort', cut, { once: true })
    try {
      await this.#options.forwarder.forward(request, response, { ...callOf(place, admission), onAnswer: hijack })
    } finally {
      forcing.removeEventListener('abort', cut)
    }
    hijack()
  }

  /** What the servers' `upgrade` events are for. */
  handleUpgrade (request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const response = responseOn(request, socket as Socket)
    const { closing, log } = this.#options
    const cut = () => socket.destroy()
    closing.addEventListener('abort', cut, { once: true })
    this.#upgrade(request, response, socket, head).catch((error: unknown) => {
      const known = toBerthError(error)
      const requestId = randomUUID()
      if (known.kind === 'internal') log.error({ err: known.cause ?? known, requestId }, 'upgrade failed')
      if (response.headersSent) socket.destroy()
      else answer(response, known, requestId)
    }).finally(() => closing.removeEventListener('abort', cut))
  }

  async #upgrade (request: IncomingMessage, response: ServerResponse, socket: Duplex, head: Buffer): Promise<void> {
    const { closing, previewDomain, forwarder } = this.#options
    if (closing.aborted) throw hostStopping()
    const place = previewPlace(request, previewDomain)
    if (!place) throw new BerthError('not_found', 'route_not_found', 'nothing here can be upgraded')
    if ('transfer-encoding' in request.headers || (request.headers['content-length'] ?? '0') !== '0') {
      throw new BerthError('invalid_argument', 'upgrade_with_body', 'a request that asks for an upgrade has no body here')
    }
    const admission = this.#admit(request, place)
    if (!admission.isAdmitted) return lead(response, admission)
    await forwarder.upgrade(request, response, socket, head, callOf(place, admission))
  }

  #admit (request: IncomingMessage, place: PreviewPlace): Admission {
    const { port, redirect } = place
    if (redirect !== undefined) return { isAdmitted: false, location: redirect }
    if (port < 1 || port > 65_535) throw new BerthError('invalid_argument', 'invalid_port', 'a port is a number from 1 to 65535')
    return admit(request, place, this.#options)
  }
}

export interface PreviewRouteOptions {
  gate: PreviewGate
}

/** Makes every method that Node reads known to the router; must come before routes. */
export function addAllMethods (app: FastifyInstance): void {
  const known = new Set(app.supportedMethods)
  for (const method of METHODS) if (!known.has(method) && method !== 'CONNECT') app.addHttpMethod(method)
}

export const previewRoutes: FastifyPluginAsync<PreviewRouteOptions> = async (app, { gate }) => {
  app.setErrorHandler((error, request, reply) => {
    if (error instanceof BerthError && error.code === 'port_not_listening' && isBrowser(request)) return reply.code(statusOf(error)).headers(waitingPageHeaders).send(waitingPage(error.message))
    throw error
  })
  // Here, and not in a handler: what comes between would read the body.
  app.addHook('onRequest', async (request, reply) => {
    await gate.pass(request.raw, reply.raw, () => takeOver(reply))
  })
  app.all(route, { config: { isPublic: true }, schema: { hide: true } }, async () => {})
}

/** The answer is the program's: it is measured no more than a stream, and gets none of Berth's headers. */
function takeOver (reply: FastifyReply): void {
  if (reply.sent) return
  reply.header('x-accel-buffering', 'no')
  reply.hijack()
}

function isBrowser (request: FastifyRequest): boolean {
  return request.method === 'GET' && request.headers.accept?.includes('text/html') === true
}

function callOf ({ sandboxId, port, prefix }: PreviewPlace, { path, isAuthorizationOurs }: Extract<Admission, { isAdmitted: true }>): PreviewCall {
  return { sandboxId, port, prefix, path, isAuthorizationOurs }
}

/** 302 for who came with a ticket; 307 keeps method and body of who left out the slash. */
function lead (response: ServerResponse, { location, cookie }: Extract<Admission, { isAdmitted: false }>): void {
  response.writeHead(cookie === undefined ? 307 : 302, {
    location,
    'cache-control': 'no-store',
    'referrer-policy': 'no-referrer',
    'content-length': 0,
    ...(cookie === undefined ? {} : { 'set-cookie': cookie }),
  }).end()
}

function answer (response: ServerResponse, error: BerthError, requestId: string): void {
  const body = JSON.stringify(errorBody(error, requestId))
  response.writeHead(statusOf(error), {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    'x-request-id': requestId,
    ...(error.kind === 'unauthenticated' ? { 'www-authenticate': 'Bearer realm="berth"' } : {}),
  }).end(body)
}
