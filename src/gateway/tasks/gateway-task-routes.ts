/** Tasks of a fleet over REST: the routes of a host, for whoever asks. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { taskRoutes, type TaskForms } from '../../routes/tasks.ts'
import { FleetTaskBatch, FleetTaskCreate } from '../../schemas/fleet.ts'
import type { FleetPrincipal } from '../worker-record.ts'
import type { FleetTasks } from './fleet-tasks.ts'

export interface GatewayTaskRouteOptions {
  tasks: FleetTasks
  /** Who asks; called once authentication has let the request in. */
  principalOf: (request: FastifyRequest) => FleetPrincipal
  closing: AbortSignal
}

const forms: TaskForms = { task: FleetTaskCreate, batch: FleetTaskBatch, queueSummary: 'Show how full the queues of the pools are, and the room of all workers that take tasks' }

export const gatewayTaskRoutes: FastifyPluginAsyncTypebox<GatewayTaskRouteOptions> = async (app, { tasks, principalOf, closing }) => {
  await app.register(taskRoutes, { tasks: request => tasks.of(principalOf(request)), closing, forms })
}
