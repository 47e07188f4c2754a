/** Logs of sandboxes, of detached execs and of tasks over REST. */
import { Type, type FastifyPluginAsyncTypebox, type Static } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { ref } from '../schemas/components.ts'
import { LogRecord, LogStream, type LogEnd, type LogStream as Stream } from '../schemas/log.ts'
import { TaskId } from '../schemas/task.ts'
import { ExecId, SandboxId, Words } from '../schemas/wire.ts'
import { createTextFormatter, toNdjsonLine, toSseFrame } from '../services/logs/log-format.ts'
import { maxTailLines } from '../services/logs/log-reader.ts'
import type { LogSource } from '../services/logs/log-source.ts'
import { errorResponses } from './http-errors.ts'
import { chosenFormat, jsonLine, recordEncoder, sendStream, sseMessage, type StreamContext, type StreamEncoder, type StreamFormat } from './streaming.ts'

export interface LogRead extends LogSource {
  cursor?: string
  tail?: number
  follow?: boolean
  stream?: Stream
  signal: AbortSignal
}

export interface LogRouteOptions {
  /** All throw not_found. */
  logSources: {
    sandboxLog: (sandboxId: string) => LogSource
    execLog: (sandboxId: string, execId: string) => LogSource
    /** Of all its attempts, or of one. */
    taskLog: (taskId: string, attempt?: number) => LogSource
  }
  logs: { readBatches: (options: LogRead) => AsyncIterable<LogRecord[]> }
  streams: StreamContext
}

const longestCursor = 128
/** Of any log; a longer one is cut, and refused as what it is then. */
const longestLastEventId = 256

export const LogQuery = Type.Object({
  cursor: Type.Optional(Type.String({ maxLength: longestCursor, description: 'Read on behind the record with this cursor; the Last-Event-ID header says the same and goes first; a cursor wins over tail' })),
  tail: Type.Optional(Type.Integer({ minimum: 0, maximum: maxTailLines, description: 'Begin this many lines before the end' })),
  follow: Type.Boolean({ default: false, description: 'Go on until the log is complete' }),
  stream: Type.Optional(LogStream),
  timestamps: Type.Boolean({ default: false, description: 'text: put the time before each line' }),
  format: Type.Optional(Words(['text', 'ndjson', 'sse'], { description: 'text unless an Accept header says otherwise' })),
}, { additionalProperties: false })
export type LogQuery = Static<typeof LogQuery>

export const TaskLogQuery = Type.Object({
  ...LogQuery.properties,
  attempt: Type.Optional(Type.Integer({ minimum: 1, description: 'Only the output of this attempt' })),
}, { additionalProperties: false })

export const logResponse = {
  200: {
    description: 'The log. text: stdout and stderr, byte for byte as they came; ndjson and sse: records with cursors. Compressed with zstd or gzip where Accept-Encoding says so',
    content: {
      'text/plain': { schema: Type.String() },
      'application/x-ndjson': { schema: ref(LogRecord, { description: 'With follow=true the last line is a LogEnd' }) },
      'text/event-stream': { schema: Type.String({ description: 'Messages whose id is the record\'s cursor and whose data is a LogRecord; an event `end`, whose data is a LogEnd, comes last, an event `error` when reading fails' }) },
    },
  },
  ...errorResponses(404),
}

const tags = ['logs']

export const logRoutes: FastifyPluginAsyncTypebox<LogRouteOptions> = async (app, { logSources, logs, streams }) => {
  app.get('/sandboxes/:id/logs', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readSandboxLog', summary: 'Read or follow the log of a sandbox', tags, params: Type.Object({ id: SandboxId }, { additionalProperties: false }), querystring: LogQuery, response: logResponse,
    },
  }, async (request, reply) => answer(request, reply, request.query, logSources.sandboxLog(request.params.id)))

  app.get('/sandboxes/:id/execs/:eid/logs', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readExecLog', summary: 'Read or follow the log of a detached exec', tags, params: Type.Object({ id: SandboxId, eid: ExecId }, { additionalProperties: false }), querystring: LogQuery, response: logResponse,
    },
  }, async (request, reply) => answer(request, reply, request.query, logSources.execLog(request.params.id, request.params.eid)))

  app.get('/tasks/:id/logs', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readTaskLog', summary: 'Read or follow the log of a task', tags, params: Type.Object({ id: TaskId }, { additionalProperties: false }), querystring: TaskLogQuery, response: logResponse,
    },
  }, async (request, reply) => {
    const { attempt, ...query } = request.query
    return answer(request, reply, query, logSources.taskLog(request.params.id, attempt))
  })

  async function answer (request: FastifyRequest, reply: FastifyReply, query: LogQuery, source: LogSource) {
    return sendLog(request, reply, query, { streams, end: source.end, readBatches: options => logs.readBatches({ ...source, ...options }) })
  }
}

export interface LogAnswer {
  streams: StreamContext
  readBatches: (options: Omit<LogRead, keyof LogSource> & { follow: boolean }) => AsyncIterable<LogRecord[]>
  /** How what wrote the log ended; asked when there is no more. */
  end?: LogSource['end']
}

/** Answers with a log, in the format that is asked for, from where it is asked for. */
export async function sendLog (request: FastifyRequest, reply: FastifyReply, query: LogQuery, { streams, readBatches, end }: LogAnswer): Promise<FastifyReply> {
  const chosen = chosenFormat(request, query.format)
  const format = chosen === 'sse' || chosen === 'ndjson' ? chosen : 'text'
  return sendStream<LogRecord[]>(reply, {
    ...logEncoder(format, query, end),
    format,
    context: streams,
    open: signal => readBatches({ ...startingPoint(request, query), follow: query.follow, stream: query.stream, signal }),
  })
}

/** An EventSource that comes back repeats its URL and adds Last-Event-ID: the header is the later word. */
function startingPoint (request: FastifyRequest, query: LogQuery): { cursor?: string, tail?: number } {
  const last = request.headers['last-event-id']
  if (typeof last === 'string' && last !== '') return { cursor: last.slice(0, longestLastEventId) }
  return { cursor: query.cursor, tail: query.tail }
}

/** Log records in the format asked for; a batch at a time, which is several times faster. */
function logEncoder (format: StreamFormat, { timestamps, follow }: LogQuery, endOf: LogSource['end']): StreamEncoder<LogRecord[]> {
  if (format === 'text') {
    const toText = createTextFormatter({ timestamps })
    return { encode: batch => joined(batch.map(toText)), encodeError: error => `--- error: ${error.message} ---\n` }
  }
  const end = (): LogEnd => ({ type: 'end', ...endOf?.() })
  const usual = recordEncoder<LogRecord[]>(format, () => ({ event: 'log' }))
  if (format === 'sse') return { ...usual, encode: encodeSse, encodeEnd: () => sseMessage({ event: 'end', data: end() }) }
  return { ...usual, encode: encodeNdjson, ...(follow ? { encodeEnd: () => jsonLine(end()) } : {}) }
}

function joined (pieces: ReadonlyArray<string | Buffer>): string | Buffer {
  if (pieces.every(piece => typeof piece === 'string')) return pieces.join('')
  return Buffer.concat(pieces.map(piece => typeof piece === 'string' ? Buffer.from(piece) : piece))
}

/** Followers that are equally far get the same array: it is encoded for the first of them. */
function encodedOnce (toText: (record: LogRecord) => string): (batch: LogRecord[]) => Buffer {
  const known = new WeakMap<LogRecord[], Buffer>()
  return batch => {
    const encoded = known.get(batch) ?? Buffer.from(batch.map(toText).join(''))
    known.set(batch, encoded)
    return encoded
  }
}

const encodeNdjson = encodedOnce(toNdjsonLine)
const encodeSse = encodedOnce(toSseFrame)
