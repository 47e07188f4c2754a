/** What a gateway is. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { errorResponses } from '../routes/http-errors.ts'
import { ref } from '../schemas/components.ts'
import { Gateway } from '../schemas/fleet-gateway.ts'

export interface GatewayRouteOptions {
  describe: () => Gateway
}

export const gatewayRoutes: FastifyPluginAsyncTypebox<GatewayRouteOptions> = async (app, { describe }) => {
  app.get('/gateway', {
    schema: { operationId: 'getGateway', summary: 'Show this gateway', tags: ['gateway'], response: { 200: ref(Gateway, { description: 'The gateway' }), ...errorResponses() } },
  }, async () => describe())
}
