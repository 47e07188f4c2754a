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

const forms: TaskForms = {
  task: FleetTaskCreate,
  batch: FleetTaskBatch,
  queueSummary: 'Show how full the queues of the pools are, and the room of all workers that take tasks',
  removal: 'The task is gone, and what the buffer of the fleet has of its output. On the hosts that ran it the log lies until their own retention is over (BERTH_TASK_RETENTION_MS); by the task it is reached no more.',
}

export const gatewayTaskRoutes: FastifyPluginAsyncTypebox<GatewayTaskRouteOptions> = async (app, { tasks, closing }) => {
  await app.register(taskRoutes, { tasks: request => tasks.of(principalOf(request)), closing, forms })
}
