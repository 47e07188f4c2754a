/** Bodies that are bytes and nothing else, of any length: a route reads them as they come, and bounds them itself. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route reads the body itself, from `request.raw`, and bounds how long it may stand still. */
    hasRawBody?: boolean
  }
}

/** How a body that waits for leave (Expect: 100-continue) is told apart from the others of its door. */
export interface BodyLeaves {
  /** On a route of this pattern (`/v1/things/:id`), a PUT gets its leave by `giveLeave`, not before. */
  addPatient: (pattern: string) => void
}

/** After an answer to a body that is still coming, what comes is dropped for so long: a connection that is cut at once may take the answer with it. */
const lingerMs = 10_000

/** Makes this the scope of routes whose bodies are taken as they are, whatever their type. */
export function addRawBodies (app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  void app.addContentTypeParser('*', (_request: FastifyRequest, _payload: unknown, done: (error: null) => void) => done(null))
  app.addHook('onRequest', async ({ raw }) => {
    // Bytes need no type: one that is malformed is no reason to refuse them.
    delete raw.headers['content-type']
  })
  app.addHook('onSend', async ({ raw }, reply) => {
    if (raw.complete) return
    if (waitsForLeave(raw.headers.expect)) reply.header('connection', 'close')
    // Node would close a connection that ends with its answer in both directions at once.
    raw.socket.destroySoon = () => { raw.socket.end() }
  })
  app.addHook('onResponse', async ({ raw }) => {
    if (raw.complete || raw.destroyed) return
    raw.resume()
    const timer = setTimeout(() => raw.socket.destroy(), lingerMs)
    timer.unref()
    for (const event of ['end', 'close']) raw.once(event, () => clearTimeout(timer))
  })
}

/** Tells a client that waits with its body to send it. */
export function giveLeave ({ raw }: FastifyRequest, reply: FastifyReply): void {
  if (!raw.complete && waitsForLeave(raw.headers.expect)) reply.raw.writeContinue()
}

function waitsForLeave (expect: string | undefined): boolean {
  return /(?:^|\W)100-continue(?:$|\W)/i.test(expect ?? '')
}

/** How many bytes the body has, where the client says so. */
export function announcedBytes ({ headers }: FastifyRequest): number | undefined {
  const { 'content-length': length, 'transfer-encoding': coding } = headers
  if (coding !== undefined) return undefined
  const bytes = Number(length ?? 0)
  if (Number.isSafeInteger(bytes)) return bytes
  throw new BerthError('invalid_argument', 'file_too_large', 'Content-Length says more than a file can hold')
}
