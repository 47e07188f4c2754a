/** Directories of a sandbox as tar archives, both ways. */
import { pipeline, type Readable } from 'node:stream'
import { createGunzip, type Gunzip } from 'node:zlib'
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { answerAsDownload, nameOf, Owner, Parents, refuseCoding } from './file-contents.ts'
import { FileParams, targetFields, targetOf } from './file-target.ts'
import type { FileRouteOptions } from './files.ts'
import { cutOffStalled } from './follower-stall.ts'
import { errorResponses } from './http-errors.ts'
import { addRawBodies, giveLeave } from './raw-body.ts'
import { chosenCompression, createCompressor } from './stream-compression.ts'
import { clientSignal } from './streaming.ts'

const tags = ['files']
const unpackedChunkBytes = 64 * 1024

export const fileArchiveRoutes: FastifyPluginAsyncTypebox<FileRouteOptions> = async (app, { files, attached, leaves, stallMs }) => {
  addRawBodies(app)

  app.get('/sandboxes/:id/files/archive', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readArchive',
      summary: 'Take a file or a directory of a sandbox as a tar',
      description: 'What the path leads to, under its base name. Compressed where Accept-Encoding asks for it. Where it cannot be read to its end, the connection breaks off.',
      tags,
      params: FileParams,
      querystring: Type.Object(targetFields, { additionalProperties: false }),
      response: { 200: { description: 'The archive', content: { 'application/x-tar': { schema: {} } } }, ...errorResponses(404, 409, 429, 499, 504) },
    },
  }, async (request, reply) => {
    const { entry, body } = await files.archive(targetOf(request.params, request.query), { signal: clientSignal(reply, attached.closing) })
    answerAsDownload(reply, `${nameOf(entry)}.tar`).header('content-type', 'application/x-tar').header('vary', 'Accept-Encoding')
    cutOffStalled(reply.raw, stallMs)
    const compression = chosenCompression(request)
    if (!compression) return reply.send(body)
    const compressor = createCompressor(compression)
    // How it ends is seen by the client: what breaks off is not ended.
    pipeline(body, compressor, () => {})
    return reply.header('content-encoding', compression).send(compressor)
  })

  leaves.addPatient(`${app.prefix}/sandboxes/:id/files/archive`)
  app.put('/sandboxes/:id/files/archive', {
    config: { hasRawBody: true, hasOptionalBody: true },
    schema: {
      operationId: 'writeArchive',
      summary: 'Unpack a tar into a directory of a sandbox',
      description: 'The body is a tar, or with Content-Encoding: gzip a compressed one. Nothing of it leads out of the directory. ' +
        'Where it breaks off, what was unpacked before stays.',
      tags,
      params: FileParams,
      querystring: Type.Object({ ...targetFields, owner: Owner, parents: Parents }, { additionalProperties: false }),
      body: { content: { 'application/x-tar': { schema: {} } } },
      response: { 204: Type.Null({ description: 'All of it is in place' }), ...errorResponses(404, 408, 409, 415, 429, 499, 504) },
    },
  }, async (request, reply) => {
    const { owner, parents } = request.query
    const coding = refuseCoding(request, ['identity', 'gzip', 'x-gzip'])
    const gunzip = coding === 'identity' ? undefined : gunzipOf(request.raw)
    await files.extract(targetOf(request.params, request.query), {
      owner,
      parents,
      source: gunzip ?? request.raw,
      onReady: () => {
        giveLeave(request, reply)
        if (gunzip) request.raw.pipe(gunzip)
      },
      signal: clientSignal(reply, attached.closing),
    })
    return reply.code(204).send(null)
  })
}

/** What unpacks the bytes of a source that is piped into it later; broken off where that is. */
function gunzipOf (source: Readable): Gunzip {
  const gunzip = createGunzip({ chunkSize: unpackedChunkBytes })
  // Whoever reads it hears of it, or nobody needs to.
  gunzip.on('error', () => {})
  source.once('error', () => gunzip.destroy())
  source.once('close', () => { if (!source.readableEnded) gunzip.destroy() })
  return gunzip
}
