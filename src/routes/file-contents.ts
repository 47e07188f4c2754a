/** The bytes of files in a sandbox: out, whole or in part, and in. Whatever they are, a browser gets them as bytes to keep, not as a page to show. */
import type { OutgoingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import { isSpliceable } from '../host/splice.ts'
import { ref } from '../schemas/components.ts'
import { FileEntry, FileMode } from '../schemas/file.ts'
import { pattern } from '../schemas/wire.ts'
import type { FileContent, FileTarget } from '../services/files/file-requests.ts'
import { isKnown, isRangeCurrent, parseRange, type ByteRange } from './byte-range.ts'
import { FileParams, targetFields, targetOf } from './file-target.ts'
import type { FileRouteOptions } from './files.ts'
import { cutOffStalled } from './follower-stall.ts'
import { errorResponses } from './http-errors.ts'
import { addRawBodies, announcedBytes, giveLeave } from './raw-body.ts'
import { clientSignal } from './streaming.ts'

const tags = ['files']

const ReadQuery = Type.Object(targetFields, { additionalProperties: false })

export const Owner = Type.Optional(Type.String({
  minLength: 1,
  maxLength: 129,
  pattern: pattern('^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$', 'must be user or user:group, by name or number'),
  description: 'user or user:group, names inside or numbers; only root may give away',
  examples: ['1000:1000'],
}))

export const Parents = Type.Boolean({ default: true, description: 'Make the directories above it where they are missing' })

const WriteQuery = Type.Object({
  ...targetFields,
  mode: Type.Optional({ ...FileMode, description: 'Permissions, octal. Unless said those of the file before, or 0644' }),
  owner: Owner,
  parents: Parents,
  overwrite: Type.Boolean({ default: true, description: 'false: 409 path_exists where there is something' }),
}, { additionalProperties: false })

const bytes = { 'application/octet-stream': { schema: {} } }
const header = (description: string) => ({ type: 'string', description })

const contentHeaders = {
  'Content-Length': header('Absent where nobody knows before the end, as for files of /proc'),
  'Last-Modified': header('When it was modified'),
  ETag: header('Changes when time of modification or size do'),
  'Accept-Ranges': header('bytes'),
  'X-Berth-File-Mode': header('Its permissions, octal, such as 0644'),
  'X-Berth-File-Owner': header('uid:gid inside'),
}

/** RFC 8187 knows fewer characters than JavaScript. */
const percent = (char: string) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`

/** Answers what comes out of a sandbox so that a browser runs nothing of it. */
export function answerAsDownload (reply: FastifyReply, name: string): FastifyReply {
  return reply.headers({
    'content-security-policy': "sandbox; default-src 'none'",
    'cross-origin-resource-policy': 'same-origin',
    'content-disposition': `attachment; filename*=UTF-8''${encodeURIComponent(name).replaceAll(/['()*!]/g, percent)}`,
  })
}

/** The name of an entry as people read it. */
export function nameOf ({ name, encoding }: FileEntry): string {
  return encoding === undefined ? name : Buffer.from(name, encoding).toString('utf8')
}

/** A body that comes compressed would be kept as what nobody asked for. */
export function refuseCoding ({ headers }: FastifyRequest, known: readonly string[]): string {
  const coding = headers['content-encoding']?.trim().toLowerCase() ?? 'identity'
  if (known.includes(coding)) return coding
  const others = known.includes('gzip') ? ', or with Content-Encoding: gzip' : ', without Content-Encoding'
  throw new BerthError('invalid_argument', 'unsupported_content_encoding', `the body must come as it is${others}`)
}

export const fileContentRoutes: FastifyPluginAsyncTypebox<FileRouteOptions> = async (app, { files, attached, leaves, stallMs }) => {
  addRawBodies(app)

  app.get('/sandboxes/:id/files', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readFile',
      summary: 'Read a file of a sandbox, or a range of it',
      description: 'One range (Range: bytes=…) is honoured, with If-Range; If-None-Match answers 304. Where the file is cut while it is sent, the connection breaks off. ' +
        'What is no file is refused: nothing waits for a FIFO or a device.',
      tags,
      params: FileParams,
      querystring: ReadQuery,
      response: {
        200: { description: 'All of it', headers: contentHeaders, content: bytes },
        206: { description: 'The range', headers: { ...contentHeaders, 'Content-Range': header('Which bytes, and of how many') }, content: bytes },
        304: Type.Null({ description: 'As If-None-Match knows it' }),
        ...errorResponses(404, 409, 416, 429, 499, 504),
      },
    },
  }, async (request, reply) => {
    const target = targetOf(request.params, request.query)
    const signal = clientSignal(reply, attached.closing)
    const range = await wantedRange(request, target, signal)
    const { entry, first, lengthBytes, body, sendTo } = await files.read(target, { range, signal })
    describe(reply, entry)
    if (isKnown(request.headers, etagOf(entry))) {
      body.destroy()
      return reply.code(304).send(null)
    }
    if (lengthBytes !== undefined) reply.header('content-length', String(lengthBytes))
    if (range && lengthBytes !== undefined) reply.code(206).header('content-range', `bytes ${first}-${first + lengthBytes - 1}/${entry.sizeBytes}`)
    reply.header('content-type', 'application/octet-stream')
    if (sendTo && isSpliceable(reply.raw.socket)) return await sendSpliced(reply, reply.raw.socket, sendTo)
    cutOffStalled(reply.raw, stallMs)
    return reply.send(body)
  })

  app.head('/sandboxes/:id/files', {
    schema: {
      operationId: 'headFile',
      summary: 'What reading a file would answer, without its bytes',
      tags,
      params: FileParams,
      querystring: ReadQuery,
      response: { 200: { description: 'The headers alone', headers: contentHeaders, content: bytes }, ...errorResponses(404, 409, 429, 499, 504) },
    },
  }, async (request, reply) => {
    const entry = await files.stat(targetOf(request.params, request.query), { follow: true, signal: clientSignal(reply, attached.closing) })
    if (entry.type === 'directory') throw new BerthError('conflict', 'is_directory', 'this is a directory; list it, or take it as an archive')
    if (entry.type !== 'file') throw new BerthError('conflict', 'not_a_file', 'this is neither a file nor a directory')
    describe(reply, entry)
    // A size of nothing may be that of a file of /proc, which has something to say.
    if (entry.sizeBytes > 0) reply.header('content-length', String(entry.sizeBytes))
    return reply.header('content-type', 'application/octet-stream').send('')
  })

  leaves.addPatient(`${app.prefix}/sandboxes/:id/files`)
  app.put('/sandboxes/:id/files', {
    config: { hasRawBody: true, hasOptionalBody: true },
    schema: {
      operationId: 'writeFile',
      summary: 'Write a file of a sandbox',
      description: 'The body, of any type and length, is the file. It is in its place when all of it has come, and all at once: ' +
        'until then, and where the body breaks off, what was there is as it was. What can be refused before is refused before, with Expect: 100-continue without the body being sent. A body that stands still for too long is cut off.',
      tags,
      params: FileParams,
      querystring: WriteQuery,
      body: { content: bytes },
      response: {
        200: ref(FileEntry, { description: 'It was there and is replaced' }),
        201: ref(FileEntry, { description: 'It is new' }),
        ...errorResponses(404, 408, 409, 415, 429, 499, 504),
      },
    },
  }, async (request, reply) => {
    const { mode, owner, parents, overwrite } = request.query
    refuseCoding(request, ['identity'])
    const isSpliced = isSpliceable(request.raw.socket)
    const { entry, isNew } = await files.write(targetOf(request.params, request.query), {
      mode,
      owner,
      parents,
      overwrite,
      sizeBytes: announcedBytes(request),
      source: request.raw,
      request: isSpliced ? request.raw : undefined,
      onReady: () => giveLeave(request, reply),
      signal: clientSignal(reply, attached.closing),
    })
    // Node has not read all of it, and would wait for the rest.
    if (!request.raw.complete) reply.header('connection', 'close')
    return reply.code(isNew ? 201 : 200).send(entry)
  })

  async function wantedRange (request: FastifyRequest, target: FileTarget, signal: AbortSignal): Promise<ByteRange | undefined> {
    const range = parseRange(request.headers.range)
    const ifRange = request.headers['if-range']
    if (!range || typeof ifRange !== 'string') return range
    const entry = await files.stat(target, { follow: true, signal })
    return isRangeCurrent(ifRange, { etag: etagOf(entry), modifiedAt: new Date(entry.modifiedAt) }) ? range : undefined
  }
}

/** The head by Node, the body past it; the connection serves the next request as after any answer. */
async function sendSpliced (reply: FastifyReply, socket: Socket, sendTo: NonNullable<FileContent['sendTo']>): Promise<void> {
  const { raw } = reply
  reply.hijack()
  raw.writeHead(reply.statusCode, reply.getHeaders() as OutgoingHttpHeaders)
  try {
    await sendTo(socket, held => new Promise(resolve => {
      raw.flushHeaders()
      if (held.length > 0) raw.write(held)
      // Behind all that was written before.
      socket.write(Buffer.alloc(0), () => resolve())
    }))
    raw.end()
  } catch (error) {
    reply.log.debug({ err: error }, 'a file was not sent whole')
    socket.destroy()
  }
}

function describe (reply: FastifyReply, entry: FileEntry): void {
  answerAsDownload(reply, nameOf(entry)).headers({
    'last-modified': new Date(entry.modifiedAt).toUTCString(),
    etag: etagOf(entry),
    'accept-ranges': 'bytes',
    'x-berth-file-mode': entry.mode,
    'x-berth-file-owner': `${entry.uid}:${entry.gid}`,
  })
}

function etagOf ({ modifiedAt, sizeBytes }: FileEntry): string {
  return `"${modifiedAt.replaceAll(/\D/g, '')}-${sizeBytes.toString(16)}"`
}
