/** Images over REST. */
import { setTimeout as delay } from 'node:timers/promises'
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import { ref } from '../schemas/components.ts'
import {
  ImageDetail, ImageDigest, ImagePage, ImagePrune, ImagePull, ImageRemoval, PruneResult, PullEvent,
  type Image, type PullProgress, type RegistryCredentials,
} from '../schemas/image.ts'
import { ErrorBody, Words, noNul } from '../schemas/wire.ts'
import { formatRegistryReference, parseRegistryReference } from '../services/images/registry/registry-reference.ts'
import { errorBody, errorResponses, imageProblems } from './http-errors.ts'
import { Cursor, Limit } from './sandboxes.ts'
import { chosenFormat, clientSignal, jsonLine, sendStream, sseMessage, type StreamContext, type StreamEncoder } from './streaming.ts'

export interface PullOptions {
  mode?: 'lazy' | 'eager'
  credentials?: RegistryCredentials
  /** Ends this caller's wait; the pull itself goes on for as long as anyone waits for it. */
  signal?: AbortSignal
  onProgress?: (progress: PullProgress) => void
}

/** What these routes need of the image service. */
export interface Images {
  /** Asks the registry what a tag stands for, each time; what is on this host already is not fetched again. */
  pull: (reference: string, options: PullOptions) => Promise<Image>
  list: () => Promise<Image[]>
  /** @throws BerthError not_found `image_not_found`. */
  get: (digest: string) => Promise<ImageDetail>
  /** @throws BerthError not_found `image_not_found`; conflict `image_in_use`, whose details.leases names the sandboxes. */
  remove: (digest: string) => Promise<{ freedBytes: number }>
  /** Removes what no sandbox uses, the longest unused first. */
  prune: (options: { keepBytes?: number, unusedForMs?: number }) => Promise<{ digests: string[], freedBytes: number }>
}

export interface ImageRouteOptions {
  images: Images
  streams: StreamContext
}

// Faster than this nobody reads, and a pull of many layers tells of each some KiB at a time.
const progressIntervalMs = 100

const Params = Type.Object({ digest: ImageDigest }, { additionalProperties: false })

const ListQuery = Type.Object({
  limit: Limit,
  cursor: Cursor,
  reference: Type.Optional(Type.String({ maxLength: 1024, pattern: noNul, description: 'Only what this reference names here; python and docker.io/library/python:latest are the same', examples: ['python:3.12'] })),
}, { additionalProperties: false })

const tags = ['images']
const problem = (description: string) => ref(ErrorBody, { description })

const imageMissing = { 404: problem('image_not_found: this host has no image of this digest') }

export const imageRoutes: FastifyPluginAsyncTypebox<ImageRouteOptions> = async (app, { images, streams }) => {
  app.post('/images/pull', {
    config: { secretFields: ['credentials'] },
    preValidation: async request => refuseKeyOnStream(request),
    schema: {
      operationId: 'pullImage',
      summary: 'Bring an image onto this host, or see that it is there',
      description: 'Asks the registry what the reference stands for and makes that usable: in mode lazy as soon as its index is at hand, in mode eager when all of it is here. Answers when that is done, or streams progress until then. ' +
        'Several pulls of one image share the work. A client that goes away ends its own wait alone: the pull goes on while others wait for it, and what was fetched is kept for the next one. With an Idempotency-Key it goes on without any client.',
      tags,
      querystring: Type.Object({
        format: Type.Optional(Words(['json', 'sse', 'ndjson'], { description: 'sse or ndjson: stream the progress; an Accept header says the same' })),
      }, { additionalProperties: false }),
      body: ref(ImagePull),
      response: {
        200: {
          description: 'The image, or what happens until it is there: an error that comes later than the answer\'s head is the last item',
          content: {
            'application/json': { schema: ref(ImageDetail) },
            'application/x-ndjson': { schema: ref(PullEvent) },
            'text/event-stream': { schema: Type.String({ description: 'Messages whose event is the type of a PullEvent (progress, then image or error) and whose data is that PullEvent' }) },
          },
        },
        ...errorResponses(413, 415, 429, 499, 504),
        ...imageProblems,
      },
    },
  }, async (request, reply) => {
    const { reference, mode, credentials } = request.body
    const format = chosenFormat(request, request.query.format)
    if (format === 'sse' || format === 'ndjson') {
      return sendStream<PullEvent>(reply, {
        ...pullEncoder(format, request.id),
        format,
        context: streams,
        open: signal => pullEvents(onProgress => images.pull(reference, { mode, credentials, signal, onProgress })),
      })
    }
    const signal = request.idempotent === undefined ? clientSignal(reply, streams.closing) : streams.closing
    const { digest } = await images.pull(reference, { mode, credentials, signal })
    return images.get(digest)
  })

  app.get('/images', {
    schema: { operationId: 'listImages', summary: 'List the images on this host, the newest first', tags, querystring: ListQuery, response: { 200: ref(ImagePage, { description: 'A page of images' }), ...errorResponses() } },
  }, async request => {
    const { reference, limit, cursor } = request.query
    const found = await images.list()
    return pageOf(reference === undefined ? found : found.filter(isNamed(reference)), limit, cursor)
  })

  app.get('/images/:digest', {
    schema: { operationId: 'getImage', summary: 'Get an image: its layers, how it wants to be run, who uses it', tags, params: Params, response: { 200: ref(ImageDetail, { description: 'The image' }), ...errorResponses(404), ...imageMissing } },
  }, async request => images.get(request.params.digest))

  app.delete('/images/:digest', {
    schema: {
      operationId: 'deleteImage',
      summary: 'Delete an image that no sandbox uses',
      description: 'Layers that other images share stay.',
      tags,
      params: Params,
      response: {
        200: ref(ImageRemoval, { description: 'It is gone' }),
        ...errorResponses(404, 409),
        ...imageMissing,
        409: problem('image_in_use: sandboxes use it; details.leases names them'),
      },
    },
  }, async request => images.remove(request.params.digest))

  app.post('/images/prune', {
    config: { hasOptionalBody: true },
    schema: {
      operationId: 'pruneImages',
      summary: 'Delete images that no sandbox uses, the longest unused first',
      tags,
      body: ref(ImagePrune),
      response: { 200: ref(PruneResult, { description: 'What was removed' }), ...errorResponses(409, 413, 415) },
    },
  }, async request => images.prune(request.body))
}

/** The events of one pull; a reader that is slower than the pull sees the newest progress alone. */
async function * pullEvents (start: (onProgress: (progress: PullProgress) => void) => Promise<Image>): AsyncGenerator<PullEvent> {
  let newest: PullProgress | undefined
  let news = Promise.withResolvers<void>()
  const settled = new AbortController()
  const pulled = start(progress => {
    newest = progress
    news.resolve()
  })
  const settle = () => {
    settled.abort()
    news.resolve()
  }
  pulled.then(settle, settle)
  for (;;) {
    await news.promise
    if (newest === undefined) return yield { type: 'image', ...await pulled }
    const progress = newest
    newest = undefined
    if (!settled.signal.aborted) news = Promise.withResolvers()
    yield { type: 'progress', ...progress }
    await delay(progressIntervalMs, undefined, { signal: settled.signal }).catch(() => {})
  }
}

function pullEncoder (format: 'sse' | 'ndjson', requestId: string): StreamEncoder<PullEvent> {
  const encode = (event: PullEvent) => format === 'sse' ? sseMessage({ event: event.type, data: event }) : jsonLine(event)
  return { encode, encodeError: error => encode({ type: 'error', ...errorBody(error, requestId) }) }
}

/** Whether an image goes by a reference, in full or as it was written. */
function isNamed (reference: string): (image: Image) => boolean {
  const names = new Set([reference])
  let digest: string | undefined
  try {
    const parsed = parseRegistryReference(reference)
    names.add(formatRegistryReference(parsed))
    digest = parsed.digest
  } catch {
    // No registry's; berth/base, dir: and the like are kept as they were written.
  }
  return image => image.digest === digest || image.references.some(one => names.has(one))
}

/** Newest first; the cursor names the last image shown, so that one removed meanwhile loses and repeats nothing. */
function pageOf (images: Image[], limit: number, cursor: string | undefined): ImagePage {
  const after = cursor === undefined ? undefined : decodeCursor(cursor)
  const ordered = images.map(image => ({ image, place: placeOf(image) })).sort((a, b) => a.place < b.place ? 1 : -1)
  const rest = after === undefined ? ordered : ordered.filter(({ place }) => place < after)
  const page = rest.slice(0, limit)
  const last = page.at(-1)
  return {
    items: page.map(({ image }) => image),
    ...(last && rest.length > page.length ? { nextCursor: Buffer.from(last.place).toString('base64url') } : {}),
  }
}

const placeOf = ({ createdAt, digest }: Image) => `${createdAt} ${digest}`

function decodeCursor (cursor: string): string {
  const place = Buffer.from(cursor, 'base64url').toString('latin1')
  if (/^\S{24} sha256:[a-f0-9]{64}$/.test(place)) return place
  throw new BerthError('invalid_argument', 'invalid_cursor', 'cursor is not one that a list answered; leave it out to begin anew')
}

/** A stream cannot be given a second time, so a key would promise what cannot be kept. */
function refuseKeyOnStream (request: FastifyRequest): void {
  if (request.headers['idempotency-key'] === undefined) return
  const chosen = chosenFormat(request, (request.query as { format?: string }).format)
  if (chosen === 'sse' || chosen === 'ndjson') {
    throw new BerthError('invalid_argument', 'idempotency_key_on_stream', 'a streamed pull cannot be repeated, so it takes no Idempotency-Key; to pull once more is harmless')
  }
}
