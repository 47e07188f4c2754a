/** Tokens of a fleet over REST, for admins. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { errorResponses } from '../routes/http-errors.ts'
import { ref } from '../schemas/components.ts'
import { FleetToken, FleetTokenCreate } from '../schemas/fleet.ts'
import { FleetTokenPage } from '../schemas/fleet-gateway.ts'
import { principalOf } from './fleet-authentication.ts'
import type { FleetTokens } from './fleet-tokens.ts'

export interface FleetTokenRouteOptions {
  tokens: Pick<FleetTokens, 'create' | 'list' | 'revoke'>
}

const tags = ['tokens']
const onlyAdmins = { scopes: [] }

export const fleetTokenRoutes: FastifyPluginAsyncTypebox<FleetTokenRouteOptions> = async (app, { tokens }) => {
  app.post('/tokens', {
    config: { ...onlyAdmins, answersSecret: true },
    schema: {
      operationId: 'createFleetToken',
      summary: 'Make a token',
      description: 'It is told once, so no Idempotency-Key is honoured here. Give each host one of scope worker, and each program one of scope client or read.',
      tags,
      body: ref(FleetTokenCreate),
      response: { 201: ref(FleetToken, { description: 'The token' }), ...errorResponses(413, 415, 429) },
    },
  }, async (request, reply) => {
    const made = await tokens.create(request.body)
    request.log.info({ tokenId: made.id, scope: made.scope, pools: made.pools, by: principalOf(request).id }, 'a token was made')
    return reply.code(201).send(made)
  })

  app.get('/tokens', {
    config: onlyAdmins,
    schema: {
      operationId: 'listFleetTokens',
      summary: 'List the tokens, without their secrets',
      description: 'The admin token of the file is not among them.',
      tags,
      response: { 200: ref(FleetTokenPage, { description: 'All of them, the oldest first' }), ...errorResponses() },
    },
  }, async () => ({ items: await tokens.list() }))

  app.delete('/tokens/:id', {
    config: onlyAdmins,
    schema: {
      operationId: 'revokeFleetToken',
      summary: 'Revoke a token: within a second no gateway takes it any more',
      tags,
      params: Type.Object({ id: FleetToken.properties.id }, { additionalProperties: false }),
      response: { 204: Type.Null({ description: 'It is revoked' }), ...errorResponses(404) },
    },
  }, async (request, reply) => {
    await tokens.revoke(request.params.id)
    request.log.info({ tokenId: request.params.id, by: principalOf(request).id }, 'a token was revoked')
    return reply.code(204).send(null)
  })
}
