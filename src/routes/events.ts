/** What happened on this host, over REST. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { ref } from '../schemas/components.ts'
import { Event, EventPage, EventType, type EventType as Kind } from '../schemas/event.ts'
import { TaskId } from '../schemas/task.ts'
import { SandboxId, Words, pattern } from '../schemas/wire.ts'
import { errorResponses } from './http-errors.ts'
import { Limit } from './sandboxes.ts'
import { chosenFormat, recordEncoder, sendStream, type StreamContext } from './streaming.ts'

export interface EventFilter {
  /** Only events with a greater seq. */
  after?: number
  sandboxId?: string
  taskId?: string
  types?: Kind[]
}

/** What these routes need of the event log. */
export interface Events {
  /** Of the newest event, 0 before the first. */
  readonly lastSeq: number
  read: (filter: EventFilter & { limit: number }) => Event[]
  follow: (filter: EventFilter & { signal: AbortSignal }) => AsyncIterable<Event>
}

export interface EventRouteOptions {
  events: Events
  streams: StreamContext
}

const seqPattern = '^\\d{1,15}$'

export const SeqCursor = Type.Optional(Type.String({ pattern: pattern(seqPattern, 'must be the seq of an event or of a decision'), description: 'Only what is behind this seq; the Last-Event-ID header says the same and goes first' }))

const Query = Type.Object({
  cursor: SeqCursor,
  sandboxId: Type.Optional(SandboxId),
  taskId: Type.Optional(TaskId),
  type: Type.Optional(Type.Array(EventType, { description: 'One of these; repeat it or separate by commas' })),
  limit: Limit,
  follow: Type.Boolean({ default: false, description: 'Stream what happens, without a cursor from this moment on; with cursor=0 all that is kept comes first' }),
  format: Type.Optional(Words(['json', 'ndjson', 'sse'], { description: 'ndjson and sse stream; an Accept header says the same' })),
}, { additionalProperties: false })

export const eventRoutes: FastifyPluginAsyncTypebox<EventRouteOptions> = async (app, { events, streams }) => {
  app.get('/events', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readEvents',
      summary: 'Read or follow what happens to sandboxes, execs and tasks',
      tags: ['events'],
      querystring: Query,
      response: {
        200: {
          description: 'A page of events, or events while they happen',
          content: {
            'application/json': { schema: ref(EventPage) },
            'application/x-ndjson': { schema: ref(Event) },
            'text/event-stream': { schema: Type.String({ description: 'Messages whose id is the seq, whose event is the type and whose data is the Event' }) },
          },
        },
        ...errorResponses(),
      },
    },
  }, async (request, reply) => {
    const { sandboxId, taskId, type: types, limit, follow } = request.query
    const filter = { after: startingSeq(request, request.query.cursor), sandboxId, taskId, types }
    const chosen = chosenFormat(request, request.query.format)
    if (!follow && chosen !== 'sse' && chosen !== 'ndjson') return page(events.read({ ...filter, limit }), limit)
    const format = chosen === 'sse' ? 'sse' : 'ndjson'
    return sendStream<Event>(reply, {
      ...recordEncoder(format, event => ({ id: String(event.seq), event: event.type })),
      format,
      context: streams,
      open: signal => events.follow({ ...filter, after: filter.after ?? events.lastSeq, signal }),
    })
  })
}

/** Where to read on: an EventSource that comes back adds Last-Event-ID, the later word. */
export function startingSeq (request: FastifyRequest, cursor: string | undefined): number | undefined {
  const last = request.headers['last-event-id']
  if (typeof last === 'string' && new RegExp(seqPattern).test(last)) return Number(last)
  return cursor === undefined ? undefined : Number(cursor)
}

function page (items: Event[], limit: number): EventPage {
  const last = items.at(-1)
  return last !== undefined && items.length === limit ? { items, nextCursor: String(last.seq) } : { items }
}
