/** Logs of a fleet's tasks over REST, as a host has them. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { logResponse, sendLog, TaskLogQuery } from '../../routes/logs.ts'
import type { StreamContext } from '../../routes/streaming.ts'
import { TaskId } from '../../schemas/task.ts'
import { principalOf } from '../fleet-authentication.ts'
import type { FleetTasks } from '../tasks/fleet-tasks.ts'
import { longestFleetCursor } from './fleet-cursor.ts'
import type { FleetLogs } from './fleet-logs.ts'

export interface GatewayLogRouteOptions {
  tasks: Pick<FleetTasks, 'record'>
  logs: FleetLogs
  streams: StreamContext
}

const description = 'The output of all attempts in their order, in the formats of a host. It comes from the hosts; of one that does not answer, from the buffer of the fleet, which is bounded, until the host is back. What neither has is a gap.'

const cursor = Type.Optional(Type.String({ maxLength: longestFleetCursor, description: TaskLogQuery.properties.cursor.description! }))

export const gatewayLogRoutes: FastifyPluginAsyncTypebox<GatewayLogRouteOptions> = async (app, { tasks, logs, streams }) => {
  app.get('/tasks/:id/logs', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readTaskLog',
      summary: 'Read or follow the log of a task',
      description,
      tags: ['logs'],
      params: Type.Object({ id: TaskId }, { additionalProperties: false }),
      querystring: Type.Object({ ...TaskLogQuery.properties, cursor }, { additionalProperties: false }),
      response: logResponse,
    },
  }, async (request, reply) => {
    const { attempt, ...query } = request.query
    const log = logs.open(await tasks.record(principalOf(request), request.params.id), attempt)
    return sendLog(request, reply, query, { streams, ...log })
  })
}
