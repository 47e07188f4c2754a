/** What sandboxes use, over REST. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ref } from '../schemas/components.ts'
import { Usage, UsageList } from '../schemas/usage.ts'
import { SandboxId } from '../schemas/wire.ts'
import { errorResponses } from './http-errors.ts'

/** What these routes need of the service. */
export interface Usages {
  of: (sandboxId: string) => Promise<Usage>
  all: () => Promise<Usage[]>
}

const tags = ['sandboxes']

export const usageRoutes: FastifyPluginAsyncTypebox<{ usages: Usages }> = async (app, { usages }) => {
  app.get('/sandboxes/:id/usage', {
    schema: {
      operationId: 'getUsage',
      summary: 'What a running sandbox uses at this moment',
      tags,
      params: Type.Object({ id: SandboxId }, { additionalProperties: false }),
      response: { 200: ref(Usage, { description: 'Processor time, memory, processes' }), ...errorResponses(404, 409) },
    },
  }, async request => await usages.of(request.params.id))

  app.get('/usage', {
    schema: {
      operationId: 'listUsage',
      summary: 'What all running sandboxes use at this moment',
      description: 'At most a second old.',
      tags,
      response: { 200: ref(UsageList, { description: 'One for each that runs' }), ...errorResponses() },
    },
  }, async () => ({ items: await usages.all() }))
}
