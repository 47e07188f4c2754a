/** Files of a sandbox over REST. What a path leads to is decided inside, by the sandbox's own kernel, for the user that is asked for. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { ref } from '../schemas/components.ts'
import { FileChange, FileEntry, FileMatches, FileMkdir, FileMove, FilePage, FileRemove } from '../schemas/file.ts'
import { noNul, Words } from '../schemas/wire.ts'
import type { FileBytes, FileContent, FileInput, FileRange, FileSearch, FileTarget, FileWriteOptions } from '../services/files/file-requests.ts'
import { fileArchiveRoutes } from './file-archives.ts'
import { fileContentRoutes } from './file-contents.ts'
import { FileParams, targetFields, targetOf, whoFields } from './file-target.ts'
import { errorResponses } from './http-errors.ts'
import type { BodyLeaves } from './raw-body.ts'
import { Cursor, Limit } from './sandboxes.ts'
import { clientSignal, recordEncoder, sendStream, type StreamContext } from './streaming.ts'

/** What these routes need of the file service. */
export interface Files {
  stat: (target: FileTarget, options: { follow: boolean, signal: AbortSignal }) => Promise<FileEntry>
  list: (target: FileTarget, options: { limit: number, cursor?: string, signal: AbortSignal }) => Promise<FilePage>
  /** Rejects with what is refused; its body errors where the file is cut. */
  read: (target: FileTarget, options: { range?: FileRange | undefined, signal: AbortSignal }) => Promise<FileContent>
  write: (target: FileTarget, options: FileWriteOptions) => Promise<{ entry: FileEntry, isNew: boolean }>
  mkdir: (target: FileTarget, options: { parents: boolean, mode?: string | undefined, signal: AbortSignal }) => Promise<FileEntry>
  move: (target: FileTarget, options: { to: string, overwrite: boolean, parents: boolean, signal: AbortSignal }) => Promise<FileEntry>
  remove: (target: FileTarget, options: { recursive: boolean, ignoreMissing: boolean, signal: AbortSignal }) => Promise<{ removed: number }>
  archive: (target: FileTarget, options: { signal: AbortSignal }) => Promise<FileBytes>
  extract: (target: FileTarget, options: FileInput & { owner?: string | undefined, parents: boolean }) => Promise<void>
  watch: (target: FileTarget, options: { recursive: boolean, signal: AbortSignal }) => Promise<AsyncIterable<FileChange>>
  search: (target: FileTarget, search: FileSearch & { signal: AbortSignal }) => Promise<FileMatches>
}

export interface FileRouteOptions {
  files: Files
  streams: StreamContext
  /** For calls that may come to their end while the daemon ends. */
  attached: StreamContext
  leaves: BodyLeaves
  /** A client that takes nothing of a file for this long is cut off, in milliseconds. */
  stallMs: number
}

const maxSearchMs = 60_000

const Who = Type.Object(whoFields, { additionalProperties: false })

const StatQuery = Type.Object({
  ...targetFields,
  follow: Type.Boolean({ default: true, description: 'false: of a symbolic link itself, not of what it leads to' }),
}, { additionalProperties: false })

const SearchQuery = Type.Object({
  ...targetFields,
  name: Type.Optional(Type.String({ minLength: 1, maxLength: 255, pattern: noNul, description: 'A glob that the name matches', examples: ['*.ts'] })),
  text: Type.Optional(Type.String({ minLength: 1, maxLength: 1024, pattern: noNul, description: 'What a line of the file contains' })),
  regex: Type.Boolean({ default: false, description: 'text is an extended regular expression (POSIX)' }),
  ignoreCase: Type.Boolean({ default: false }),
  limit: Limit,
  timeoutMs: Type.Integer({ minimum: 1, maximum: maxSearchMs, default: 10_000, description: 'After this long what was found so far is answered, in milliseconds' }),
}, { additionalProperties: false })

const tags = ['files']
const failures = [404, 409, 429, 499, 504]
const refusals = [...failures, 413, 415]

export const fileRoutes: FastifyPluginAsyncTypebox<FileRouteOptions> = async (app, options) => {
  const { files, streams, attached } = options
  // In scopes of their own, for their bodies are no JSON.
  await app.register(fileContentRoutes, { ...options, prefix: '' })
  await app.register(fileArchiveRoutes, { ...options, prefix: '' })

  app.get('/sandboxes/:id/files/stat', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'statFile',
      summary: 'What is at a path of a sandbox',
      tags,
      params: FileParams,
      querystring: StatQuery,
      response: { 200: ref(FileEntry, { description: 'It' }), ...errorResponses(...failures) },
    },
  }, async (request, reply) => files.stat(targetOf(request.params, request.query), { follow: request.query.follow, signal: clientSignal(reply, attached.closing) }))

  app.get('/sandboxes/:id/files/list', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'listFiles',
      summary: 'List a directory of a sandbox, by name',
      description: 'Names are ordered by their bytes. What is made or removed meanwhile may be missing or there; what stays is listed exactly once.',
      tags,
      params: FileParams,
      querystring: Type.Object({ ...targetFields, limit: Limit, cursor: Cursor }, { additionalProperties: false }),
      response: { 200: ref(FilePage, { description: 'A page of entries' }), ...errorResponses(...failures) },
    },
  }, async (request, reply) => {
    const { limit, cursor } = request.query
    return files.list(targetOf(request.params, request.query), { limit, cursor, signal: clientSignal(reply, attached.closing) })
  })

  app.get('/sandboxes/:id/files/search', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'searchFiles',
      summary: 'Find files of a sandbox by name, by text, or both',
      description: 'Goes through a directory and all below it; follows no link.',
      tags,
      params: FileParams,
      querystring: SearchQuery,
      response: { 200: ref(FileMatches, { description: 'What was found' }), ...errorResponses(...failures) },
    },
  }, async (request, reply) => {
    const { name, text, regex, ignoreCase, limit, timeoutMs } = request.query
    return files.search(targetOf(request.params, request.query), { name, text, regex, ignoreCase, limit, timeoutMs, signal: clientSignal(reply, attached.closing) })
  })

  app.get('/sandboxes/:id/files/watch', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'watchFiles',
      summary: 'See what changes at a path of a sandbox',
      description: 'Streams from `ready` on, until the sandbox ends.',
      tags,
      params: FileParams,
      querystring: Type.Object({
        ...targetFields,
        recursive: Type.Boolean({ default: false, description: 'All that is below it too' }),
        format: Words(['sse', 'ndjson'], { default: 'sse' }),
      }, { additionalProperties: false }),
      response: {
        200: {
          description: 'Changes while they happen',
          content: {
            'text/event-stream': { schema: Type.String({ description: 'Messages whose event is the type of a FileChange and whose data is it; at the end one of type end' }) },
            'application/x-ndjson': { schema: ref(FileChange) },
          },
        },
        ...errorResponses(...failures),
      },
    },
  }, async (request, reply) => {
    const { recursive, format } = request.query
    const target = targetOf(request.params, request.query)
    return sendStream<FileChange>(reply, {
      ...recordEncoder(format, change => ({ event: change.type })),
      format,
      context: streams,
      open: signal => files.watch(target, { recursive, signal }),
    })
  })

  app.post('/sandboxes/:id/files/mkdir', {
    schema: {
      operationId: 'makeDirectory',
      summary: 'Make a directory in a sandbox',
      tags,
      params: FileParams,
      querystring: Who,
      body: ref(FileMkdir),
      response: { 200: ref(FileEntry, { description: 'It is there' }), ...errorResponses(...refusals) },
    },
  }, async (request, reply) => {
    const { path, parents = true, mode } = request.body
    return files.mkdir(targetOf(request.params, { ...request.query, path }), { parents, mode, signal: callSignal(request, clientSignal(reply, attached.closing)) })
  })

  app.post('/sandboxes/:id/files/move', {
    schema: {
      operationId: 'moveFile',
      summary: 'Move or rename a file or a directory of a sandbox',
      tags,
      params: FileParams,
      querystring: Who,
      body: ref(FileMove),
      response: { 200: ref(FileEntry, { description: 'It, where it is now' }), ...errorResponses(...refusals) },
    },
  }, async (request, reply) => {
    const { from, to, overwrite = true, parents = false } = request.body
    return files.move(targetOf(request.params, { ...request.query, path: from }), { to, overwrite, parents, signal: callSignal(request, clientSignal(reply, attached.closing)) })
  })

  app.post('/sandboxes/:id/files/remove', {
    schema: {
      operationId: 'removeFile',
      summary: 'Remove a file or a directory of a sandbox',
      description: 'Follows no link. Whoever goes away before the answer ends it where it is.',
      tags,
      params: FileParams,
      querystring: Who,
      body: ref(FileRemove),
      response: {
        200: Type.Object({ removed: Type.Integer({ description: 'Files and directories that are gone' }) }, { additionalProperties: false, description: 'It is gone' }),
        ...errorResponses(...refusals),
      },
    },
  }, async (request, reply) => {
    const { path, recursive = false, ignoreMissing = false } = request.body
    return files.remove(targetOf(request.params, { ...request.query, path }), { recursive, ignoreMissing, signal: callSignal(request, clientSignal(reply, attached.closing)) })
  })

  /** With an Idempotency-Key the work goes on without its client, whose next try gets the result. */
  function callSignal (request: FastifyRequest, signal: AbortSignal): AbortSignal {
    return request.idempotent === undefined ? signal : attached.closing
  }
}
