/** Compression of answers that go on: what is written goes out at once, and a stream that is silent holds little memory. */
import type { Transform } from 'node:stream'
import { constants, createGzip, createZstdCompress } from 'node:zlib'
import { negotiate } from '@fastify/accept-negotiator'
import type { FastifyRequest } from 'fastify'

export type Compression = 'zstd' | 'gzip'

/** What the client takes and we have, its preference first; undefined: as it is. */
export function chosenCompression (request: FastifyRequest): Compression | undefined {
  const header = request.headers['accept-encoding']
  if (typeof header !== 'string') return undefined
  const chosen = negotiate(header, ['zstd', 'gzip', 'identity'])
  return chosen === 'zstd' || chosen === 'gzip' ? chosen : undefined
}

/**
 * Flushes after each write. The windows are small, 16 KiB: some 40 KB for a stream, where zstd takes half a megabyte
 * with its usual one.
 */
export function createCompressor (compression: Compression): Transform {
  if (compression === 'gzip') return createGzip({ flush: constants.Z_SYNC_FLUSH, level: 1, windowBits: 14, memLevel: 5, chunkSize: 4096 })
  return createZstdCompress({
    flush: constants.ZSTD_e_flush,
    chunkSize: 4096,
    params: {
      [constants.ZSTD_c_compressionLevel]: 1,
      [constants.ZSTD_c_windowLog]: 14,
      [constants.ZSTD_c_hashLog]: 12,
      [constants.ZSTD_c_chainLog]: 12,
    },
  })
}
