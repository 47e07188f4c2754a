/** Tasks of a fleet over REST: the routes of a host, for whoever asks. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { taskRoutes, type TaskForms } from '../../routes/tasks.ts'
import { FleetTaskBatch, FleetTaskCreate } from '../../schemas/fleet.ts'
import { principalOf } from '../fleet-authentication.ts'
import type { FleetTasks } from './fleet-tasks.ts'

export interface GatewayTaskRouteOptions {
  tasks: FleetTasks
  closing: AbortSignal
}

const forms: TaskForms = { task: FleetTaskCreate, batch: FleetTaskBatch, queueSummary: 'Show how full the queues of the pools are, and the room of all workers that take tasks' }

export const gatewayTaskRoutes: FastifyPluginAsyncTypebox<GatewayTaskRouteOptions> = async (app, { tasks, closing }) => {
  await app.register(taskRoutes, { tasks: request => tasks.of(principalOf(request)), closing, forms })
}
