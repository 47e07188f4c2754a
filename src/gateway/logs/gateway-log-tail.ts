/** Logs of a fleet's tasks over WebSockets, as a host has them. */
import { Type, type Static } from '@sinclair/typebox'
import type { FastifyPluginAsync } from 'fastify'
import { TaskId } from '../../schemas/task.ts'
import { tailFrames, tailOf, tailResponse, TaskTailQuery } from '../../ws/log-tail.ts'
import { addSocketRoute, type SocketContext } from '../../ws/socket-route.ts'
import type { FleetAdmission } from '../fleet-socket-door.ts'
import type { FleetTasks } from '../tasks/fleet-tasks.ts'
import { longestFleetCursor } from './fleet-cursor.ts'
import type { FleetLogs } from './fleet-logs.ts'

export interface GatewayLogTailOptions {
  tasks: Pick<FleetTasks, 'record'>
  logs: FleetLogs
  sockets: SocketContext<FleetAdmission>
}

const description = `${tailFrames}

Who takes nothing for a minute while something waits is closed with 1013 \`follower_stalled\`; a gateway that ends closes with 1001, and another one goes
on from the cursor.

A browser, which can send no header, offers the subprotocols \`berth.v1\` and \`bearer.<token>\`.`

const { ticket: _, ...properties } = TaskTailQuery.properties
const cursor = Type.Optional(Type.String({ maxLength: longestFleetCursor, description: properties.cursor.description! }))
const TailQuery = Type.Object({ ...properties, cursor }, { additionalProperties: false })

export const gatewayLogTailRoutes: FastifyPluginAsync<GatewayLogTailOptions> = async (app, { tasks, logs, sockets }) => {
  addSocketRoute<{ id: string }, Static<typeof TailQuery>, FleetAdmission>(app, '/tasks/:id/logs/ws', {
    schema: {
      operationId: 'tailTaskLog',
      summary: 'Follow the log of a task over a WebSocket',
      description,
      tags: ['logs'],
      params: Type.Object({ id: TaskId }, { additionalProperties: false }),
      querystring: TailQuery,
      response: tailResponse,
    },
    ticketFor: ({ id }) => ({ scope: 'logs', taskId: id }),
    plainAdvice: '/logs beside it answers plain requests',
    async open ({ id }, { attempt, ...query }, { principal, signal }) {
      const log = logs.open(await tasks.record(principal, id), attempt)
      return tailOf(log.readBatches({ ...query, signal }), log.end)
    },
  }, sockets)
}
