/** Logs of sandboxes and of detached execs over REST. */
import { Type, type FastifyPluginAsyncTypebox, type Static } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { ref } from '../schemas/components.ts'
import { LogRecord, LogStream, type LogStream as Stream } from '../schemas/log.ts'
import { ExecId, SandboxId, Words } from '../schemas/wire.ts'
import { createTextFormatter, toNdjsonLine, toSseFrame } from '../services/logs/log-format.ts'
import { maxTailLines } from '../services/logs/log-reader.ts'
import type { LogSource } from '../services/logs/log-source.ts'
import { errorResponses } from './http-errors.ts'
import { chosenFormat, recordEncoder, sendStream, type StreamContext, type StreamEncoder, type StreamFormat } from './streaming.ts'

export interface LogRead extends LogSource {
  cursor?: string
  tail?: number
  follow?: boolean
  stream?: Stream
  signal: AbortSignal
}

export interface LogRouteOptions {
  /** Both throw not_found. */
  logSources: {
    sandboxLog: (sandboxId: string) => LogSource
    execLog: (sandboxId: string, execId: string) => LogSource
  }
  logs: { readBatches: (options: LogRead) => AsyncIterable<LogRecord[]> }
  streams: StreamContext
}

const longestCursor = 128

const LogQuery = Type.Object({
  cursor: Type.Optional(Type.String({ maxLength: longestCursor, description: 'Read on behind the record with this cursor; the Last-Event-ID header says the same and goes first; a cursor wins over tail' })),
  tail: Type.Optional(Type.Integer({ minimum: 0, maximum: maxTailLines, description: 'Begin this many lines before the end' })),
  follow: Type.Boolean({ default: false, description: 'Go on until the log is complete' }),
  stream: Type.Optional(LogStream),
  timestamps: Type.Boolean({ default: false, description: 'text: put the time before each line' }),
  format: Type.Optional(Words(['text', 'ndjson', 'sse'], { description: 'text unless an Accept header says otherwise' })),
}, { additionalProperties: false })
type LogQuery = Static<typeof LogQuery>

const response = {
  200: {
    description: 'The log. text: stdout and stderr as they came; ndjson and sse: records with cursors',
    content: {
      'text/plain': { schema: Type.String() },
      'application/x-ndjson': { schema: ref(LogRecord) },
      'text/event-stream': { schema: Type.String({ description: 'Messages whose id is the record\'s cursor and whose data is a LogRecord; an event `end` comes last, an event `error` when reading fails' }) },
    },
  },
  ...errorResponses(404),
}

const tags = ['logs']

export const logRoutes: FastifyPluginAsyncTypebox<LogRouteOptions> = async (app, { logSources, logs, streams }) => {
  app.get('/sandboxes/:id/logs', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readSandboxLog', summary: 'Read or follow the log of a sandbox', tags, params: Type.Object({ id: SandboxId }, { additionalProperties: false }), querystring: LogQuery, response,
    },
  }, async (request, reply) => answer(request, reply, request.query, logSources.sandboxLog(request.params.id)))

  app.get('/sandboxes/:id/execs/:eid/logs', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readExecLog', summary: 'Read or follow the log of a detached exec', tags, params: Type.Object({ id: SandboxId, eid: ExecId }, { additionalProperties: false }), querystring: LogQuery, response,
    },
  }, async (request, reply) => answer(request, reply, request.query, logSources.execLog(request.params.id, request.params.eid)))

  async function answer (request: FastifyRequest, reply: FastifyReply, query: LogQuery, source: LogSource) {
    const chosen = chosenFormat(request, query.format)
    const format = chosen === 'sse' || chosen === 'ndjson' ? chosen : 'text'
    return sendStream<LogRecord[]>(reply, {
      ...logEncoder(format, query.timestamps),
      format,
      context: streams,
      open: signal => logs.readBatches({ ...source, ...startingPoint(request, query), follow: query.follow, stream: query.stream, signal }),
    })
  }
}

/** An EventSource that comes back repeats its URL and adds Last-Event-ID: the header is the later word. */
function startingPoint (request: FastifyRequest, query: LogQuery): { cursor?: string, tail?: number } {
  const last = request.headers['last-event-id']
  if (typeof last === 'string' && last !== '') return { cursor: last.slice(0, longestCursor) }
  return { cursor: query.cursor, tail: query.tail }
}

/** Log records in the format asked for; a batch at a time, which is several times faster. */
function logEncoder (format: StreamFormat, timestamps: boolean): StreamEncoder<LogRecord[]> {
  if (format === 'text') {
    const toText = createTextFormatter({ timestamps })
    return { encode: batch => batch.map(toText).join(''), encodeError: error => `--- error: ${error.message} ---\n` }
  }
  const encodeOne = format === 'sse' ? toSseFrame : toNdjsonLine
  return { ...recordEncoder<LogRecord[]>(format, () => ({ event: 'log' })), encode: batch => batch.map(encodeOne).join('') }
}
