/** Logs of tasks, sandboxes and detached execs over WebSockets: what REST streams, in frames. */
import { Type, type Static, type TSchema } from '@sinclair/typebox'
import type { FastifyPluginAsync } from 'fastify'
import { errorResponses } from '../routes/http-errors.ts'
import type { LogRouteOptions } from '../routes/logs.ts'
import { ref } from '../schemas/components.ts'
import { LogEnd, LogFrame, LogStream, type LogRecord } from '../schemas/log.ts'
import { TaskId } from '../schemas/task.ts'
import { ExecId, SandboxId } from '../schemas/wire.ts'
import { toLogFrames } from '../services/logs/log-frames.ts'
import { maxTailLines } from '../services/logs/log-reader.ts'
import type { LogSource } from '../services/logs/log-source.ts'
import type { TicketTarget } from '../services/tokens/ticket-store.ts'
import { addSocketRoute, type SocketContext, type Talk } from './socket-route.ts'

export interface LogTailOptions extends Pick<LogRouteOptions, 'logSources' | 'logs'> {
  sockets: SocketContext
}

const TailQuery = Type.Object({
  cursor: Type.Optional(Type.String({ maxLength: 128, description: 'Go on behind the frame with this cursor; it wins over tail' })),
  tail: Type.Optional(Type.Integer({ minimum: 0, maximum: maxTailLines, description: 'Begin this many lines before the end' })),
  follow: Type.Boolean({ default: true, description: 'Go on until the log is complete' }),
  stream: Type.Optional(LogStream),
  ticket: Type.Optional(Type.String({ maxLength: 128, description: 'A ticket of scope logs, in the place of a token' })),
}, { additionalProperties: false })
type TailQuery = Static<typeof TailQuery>

export const TaskTailQuery = Type.Object({
  ...TailQuery.properties,
  attempt: Type.Optional(Type.Integer({ minimum: 1, description: 'Only the output of this attempt' })),
}, { additionalProperties: false })

/** What is sent, and how it ends, on hosts and gateways alike. */
export const tailFrames = `JSON messages in text frames:

- \`{"type":"output","cursor","time","stream","data","encoding"?}\`: what was written to one stream within a moment, with its line ends; base64 where it is not UTF-8.
- \`{"type":"gap","cursor","bytes"?,"message"}\`: output is missing here.
- \`{"type":"end","reason"?,"exitCode"?}\`: there is no more; the socket is closed with 1000.
- \`{"type":"error","code","message"}\`: the socket is closed: 1011 is a fault inside, 1013 says to try again, 4400 and above are 4000 and the HTTP status.

Coming back with the \`cursor\` of the last frame loses and repeats nothing. The client sends no messages. Who reads slowly is waited for.`

const description = `${tailFrames}

Who takes nothing for a minute (BERTH_FOLLOWER_STALL_MS) while something waits is closed with 1013 \`follower_stalled\`; a daemon that ends closes with 1001.

A browser, which can send no header, offers the subprotocols \`berth.v1\` and \`bearer.<token>\`, or brings a ticket of scope \`logs\` as \`?ticket=\`.`

export const tailResponse = {
  101: { description: 'Frames follow', content: { 'application/json': { schema: Type.Unsafe({ anyOf: [ref(LogFrame), ref(LogEnd)] }) } } },
  ...errorResponses(404, 426),
}

const schemaOf = (operationId: string, whose: string, params: TSchema, querystring: TSchema) => ({
  operationId,
  summary: `Follow the log of ${whose} over a WebSocket`,
  description,
  tags: ['logs'],
  params,
  querystring,
  response: tailResponse,
})

const framesByBatch = new WeakMap<readonly LogRecord[], Buffer[]>()

/** A batch as it goes out: made once, and held in memory once, for all the followers that are given it. */
function framesOf (batch: readonly LogRecord[]): Buffer[] {
  const known = framesByBatch.get(batch)
  if (known) return known
  const made = toLogFrames(batch).map(frame => Buffer.from(JSON.stringify(frame)))
  framesByBatch.set(batch, made)
  return made
}

/** Sends a log, and how what wrote it ended. */
export function tailOf (batches: AsyncIterable<LogRecord[]>, end: () => Omit<LogEnd, 'type'> | undefined): Talk {
  return {
    async run (socket) {
      for await (const batch of batches) {
        for (const frame of framesOf(batch)) await socket.send(frame)
      }
      await socket.send({ type: 'end', ...end() } satisfies LogEnd)
    },
  }
}

const object = { additionalProperties: false }

export const logTailRoutes: FastifyPluginAsync<LogTailOptions> = async (app, { logSources, logs, sockets }) => {
  interface Tail {
    source: LogSource
    query: TailQuery
  }
  type Find<Params, Query> = (params: Params, query: Query) => Tail
  const add = <Params, Query>(path: string, schema: ReturnType<typeof schemaOf>, ticketFor: (params: Params) => TicketTarget, find: Find<Params, Query>): void => {
    addSocketRoute<Params, Query>(app, path, {
      schema,
      ticketFor,
      plainAdvice: '/logs beside it answers plain requests',
      open (params, query, { signal }) {
        const { source, query: { cursor, tail, follow, stream } } = find(params, query)
        const batches = logs.readBatches({ ...source, cursor, tail, follow, stream, signal })
        return tailOf(batches, () => source.end?.())
      },
    }, sockets)
  }

  add<{ id: string }, Static<typeof TaskTailQuery>>(
    '/tasks/:id/logs/ws', schemaOf('tailTaskLog', 'a task', Type.Object({ id: TaskId }, object), TaskTailQuery),
    ({ id }) => ({ scope: 'logs', taskId: id }), ({ id }, query) => ({ source: logSources.taskLog(id, query.attempt), query }))
  add<{ id: string }, TailQuery>(
    '/sandboxes/:id/logs/ws', schemaOf('tailSandboxLog', 'a sandbox', Type.Object({ id: SandboxId }, object), TailQuery),
    ({ id }) => ({ scope: 'logs', sandboxId: id }), ({ id }, query) => ({ source: logSources.sandboxLog(id), query }))
  add<{ id: string, eid: string }, TailQuery>(
    '/sandboxes/:id/execs/:eid/logs/ws', schemaOf('tailExecLog', 'a detached exec', Type.Object({ id: SandboxId, eid: ExecId }, object), TailQuery),
    ({ id }) => ({ scope: 'logs', sandboxId: id }), ({ id, eid }, query) => ({ source: logSources.execLog(id, eid), query }))
}
