/** What lasts, streams and sockets above all, ends with the token that it came by, wherever that was revoked. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { findBearerToken } from '../routes/authentication.ts'
import type { FleetTokens } from './fleet-tokens.ts'

/** With what is believed of a token, no more than a second in all. */
const everyMs = 400

/** By token, the requests under way. */
type UnderWay = Map<string, Set<IncomingMessage>>

/** Looks at the tokens of requests that last longer than a moment, and cuts the connections of those that are no longer good. */
export function addTokenVigil (app: FastifyInstance, tokens: Pick<FleetTokens, 'verify'>): void {
  const underWay: UnderWay = new Map()
  const young = new Set<IncomingMessage>()
  app.addHook('onRequest', async ({ raw: request }, { raw: response }) => {
    const token = findBearerToken(request.headers.authorization) ?? offeredToken(request)
    if (token === undefined) return
    keep(underWay, token, request, response)
    young.add(request)
  })
  const timer = setInterval(() => {
    for (const [token, requests] of underWay) {
      const old = [...requests].filter(request => !young.has(request))
      if (old.length === 0) continue
      // Where nobody can say, what was begun goes on.
      tokens.verify(token).then(principal => { if (!principal) for (const { socket } of old) socket.destroy() }, () => {})
    }
    young.clear()
  }, everyMs).unref()
  app.addHook('onClose', async () => clearInterval(timer))
}

function keep (underWay: UnderWay, token: string, request: IncomingMessage, response: ServerResponse): void {
  const requests = underWay.get(token) ?? new Set()
  underWay.set(token, requests.add(request))
  const leave = () => {
    requests.delete(request)
    if (requests.size === 0 && underWay.get(token) === requests) underWay.delete(token)
  }
  // A tunnel's response has let go of its socket, and finishes with it.
  for (const event of ['finish', 'close']) response.once(event, leave)
}

/** From a browser that opens a WebSocket. */
function offeredToken ({ headers }: IncomingMessage): string | undefined {
  const offered = (headers['sec-websocket-protocol'] ?? '').split(',').map(protocol => protocol.trim())
  const bearer = offered.find(protocol => protocol.startsWith('bearer.'))
  return bearer === undefined ? undefined : findBearerToken(`Bearer ${bearer.slice('bearer.'.length)}`)
}
