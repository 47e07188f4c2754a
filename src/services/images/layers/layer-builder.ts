import { createWriteStream } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createZstdDecompress } from 'node:zlib'
import { BerthError } from '../../../errors.ts'
import { makeTarIndex } from '../../../host/erofs.ts'
import { diskFullError, freeDiskBytes, indexGzip, reservedDiskBytes } from '../../../host/gztool.ts'
import { parseGzipIndex } from './gzip-index.ts'
import type { LayerDescriptor } from './image-layer.ts'
import { readBlob } from './layer-blob.ts'
import type { LayerDirectory, LayerFacts, LayerFiles } from './layer-directory.ts'
import { LayerNeedsUnpackError } from './layer-needs-unpack-error.ts'
import { checkSpans, encodeSpanTable, type Span, type SpanTable } from './span-table.ts'
import { TarScan, type TarScanResult } from './tar-scan.ts'
import { notZstd, splitZstdFrames } from './zstd-frames.ts'

export interface BuildLayerOptions {
  layer: LayerDescriptor
  /** The blob from this byte on, to its end; asked again after a failure that may pass. */
  openBlob: (offset: number) => AsyncIterable<Buffer>
  directory: LayerDirectory
  limits?: LayerLimits
  onProgress?: (progress: { fetchedBytes: number }) => void
  signal?: AbortSignal
}

export interface LayerLimits {
  /** What a layer may be uncompressed. */
  maxTarBytes: number
}

export const defaultLayerLimits: LayerLimits = { maxTarBytes: 64 * 1024 ** 3 }

/**
 * How far spans are apart, the least that is fetched for one byte. Measured with a cold Python start on a layer of 235 MB: 1 MiB fetches
 * 29 MB with 5.8 MB of index, 2 MiB 32 with 3.3, 4 MiB 40 with 1.8. The index grows with the layer, what a start reads does not.
 */
function spanMiBOf (layer: LayerDescriptor, compression: Compression): number {
  return compression === 'gzip' && layer.sizeBytes > largeBlobBytes ? 2 : 1
}

const largeBlobBytes = 192 * 1024 ** 2

type Compression = 'gzip' | 'zstd' | 'plain'

/** OCI image-spec, layer.md, and Docker's image manifest v2 schema 2, with what both call foreign layers. */
export function compressionOf (mediaType: string): Compression {
  const oci = /^application\/vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+(gzip|zstd))?$/.exec(mediaType)
  const docker = /^application\/vnd\.docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.(gzip|zstd))?$/.exec(mediaType)
  const match = oci ?? docker
  if (!match) throw new BerthError('invalid_argument', 'image_invalid', `a layer of the image is of the type ${JSON.stringify(mediaType.slice(0, 200))}, which is no file system layer; use an image of tar layers, plain or with gzip or zstd`)
  return (match[1] as 'gzip' | 'zstd' | undefined) ?? 'plain'
}

/**
 * Makes a complete layer from its blob: streamed, decompressed, hashed, inspected and indexed; nothing is there before all checks have passed,
 * and nothing is left of a failure.
 *
 * @throws BerthError invalid_argument `image_invalid`, exhausted `disk_full`, what the source throws, LayerNeedsUnpackError (see
 * `isLayerNeedsUnpack`) when the image must be unpacked as a whole.
 */
export async function buildLayer (options: BuildLayerOptions): Promise<LayerFacts> {
  const compression = compressionOf(options.layer.mediaType)
  let facts: LayerFacts | undefined
  await options.directory.create(options.layer, async files => {
    facts = await build(options, compression, files).catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'ENOSPC' || error.code === 'EDQUOT' ? diskFullError(error) : error
    })
  })
  if (!facts) throw new Error('a layer was made without facts')
  return facts
}

async function build (options: BuildLayerOptions, compression: Compression, files: LayerFiles): Promise<LayerFacts> {
  const { layer, signal } = options
  const indexPath = `${files.spansPath}.gzi`
  const indexablePath = `${files.tarPath}.headers`
  const everyBytes = spanMiBOf(layer, compression) * 1024 ** 2
  const scan = new TarScan({ tarPath: files.tarPath, spans: { gzip: { indexPath }, plain: { everyBytes }, zstd: undefined }[compression], indexablePath })
  try {
    await writeTar(options, compression, files.tarPath, indexPath)
    const scanned = await scan.finish()
    if (scanned.diffId !== layer.diffId) throw new BerthError('invalid_argument', 'image_invalid', 'the content of a layer is not what the image\'s configuration says; push the image again', { details: { digest: layer.digest } })
    const refusal = await makeTarIndex(scanned.indexablePath, files.metaPath, { signal })
    if (refusal !== undefined) throw new LayerNeedsUnpackError('mkfs.erofs refuses it', { cause: new Error(refusal) })
    if (compression !== 'zstd') await writeFile(files.spansPath, encodeSpanTable(await makeTable(layer, scanned, compression, indexPath)), { mode: 0o600 })
    for (const path of [indexPath, indexablePath]) await rm(path, { force: true })
    const facts: LayerFacts = {
      version: 1,
      digest: layer.digest,
      mediaType: layer.mediaType,
      diffId: layer.diffId,
      blobBytes: layer.sizeBytes,
      tarBytes: scanned.tarBytes,
      hasSpans: compression !== 'zstd',
      entries: scanned.entries,
      implicitDirectories: scanned.implicitDirectories.slice(0, 1000).map(path => Buffer.from(path, 'latin1').toString()),
    }
    await writeFile(files.factsPath, JSON.stringify(facts), { mode: 0o600 })
    await writeFile(files.completePath, '', { mode: 0o600 })
    signal?.throwIfAborted()
    return facts
  } finally {
    await scan.close()
  }
}

async function writeTar (options: BuildLayerOptions, compression: Compression, tarPath: string, indexPath: string): Promise<void> {
  const { layer, openBlob, onProgress, signal, limits: { maxTarBytes } = defaultLayerLimits } = options
  const input = readBlob({ layer, openBlob, signal, onBytes: fetchedBytes => onProgress?.({ fetchedBytes }) })
  if (compression === 'gzip') return indexGzip({ input, tarPath, indexPath, spanMiB: spanMiBOf(layer, compression), maxTarBytes, signal })
  const isZstd = compression === 'zstd'
  const bounded = await boundedStream(maxTarBytes, dirname(tarPath))
  try {
    await pipeline([Readable.from(isZstd ? splitZstdFrames(input) : input), ...isZstd ? [createZstdDecompress({ chunkSize: 1024 ** 2 })] : [], bounded, createWriteStream(tarPath, { flags: 'wx', mode: 0o600, highWaterMark: 1024 ** 2 })], { signal })
  } catch (error) {
    if (/^(?:ZSTD_|Z_|ERR_ZLIB|ERR_ZSTD)/.test((error as NodeJS.ErrnoException).code ?? '')) throw notZstd(error)
    throw error
  }
}

/** Lets no more through than a layer may have, or the disk has. */
async function boundedStream (maxTarBytes: number, dir: string): Promise<Transform> {
  const freeBytes = await freeDiskBytes(dir) - reservedDiskBytes
  let bytes = 0
  return new Transform({
    transform (chunk: Buffer, _encoding, done) {
      bytes += chunk.length
      if (bytes > maxTarBytes) return done(new BerthError('invalid_argument', 'image_invalid', `a layer of the image is larger than ${maxTarBytes} bytes when it is decompressed; use a smaller image or raise the limit`))
      if (bytes > freeBytes) return done(diskFullError())
      done(null, chunk)
    },
  })
}

async function makeTable (layer: LayerDescriptor, scanned: TarScanResult, kind: 'gzip' | 'plain', indexPath: string): Promise<SpanTable> {
  const { tarBytes } = scanned
  const blobBytes = layer.sizeBytes
  // Of two points at one place the first counts, as in the scan; one at the end of the data has none.
  const points = kind === 'plain'
    ? scanned.spans.map(({ tarStart }) => ({ tarStart, blobStart: tarStart, window: Buffer.alloc(0) }))
    : parseGzipIndex(await readFile(indexPath)).points.filter((point, i, all) => point.tarStart !== all[i - 1]?.tarStart && point.tarStart < tarBytes)
  if (points.length !== scanned.spans.length) throw new Error('the index of a gzip stream changed while it was read')
  const spans: Span[] = points.map((point, i) => {
    const scannedSpan = scanned.spans[i]
    if (scannedSpan?.tarStart !== point.tarStart) throw new Error('the index of a gzip stream changed while it was read')
    return { ...point, blobEnd: points[i + 1]?.blobStart ?? blobBytes, tarEnd: points[i + 1]?.tarStart ?? tarBytes, sha256: scannedSpan.sha256 }
  })
  const table: SpanTable = { digest: layer.digest, diffId: layer.diffId, blobBytes, tarBytes, kind, spans }
  checkSpans(table)
  return table
}
