import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { hostPlatform, type Descriptor } from '../../src/services/images/oci-manifest.ts'

export const manifestType = 'application/vnd.oci.image.manifest.v1+json'
export const indexType = 'application/vnd.oci.image.index.v1+json'

export type LayerCompression = 'gzip' | 'zstd' | 'none'

interface ImageParts {
  /** Uncompressed tar archives, the lowest first. */
  layers?: Buffer[]
  config?: Record<string, unknown>
  platform?: string
  layerType?: string
  /** gzip if not given. */
  compression?: LayerCompression
  /** In place of the layers' true ones. */
  diffIds?: string[]
}

const layerType = 'application/vnd.oci.image.layer.v1.tar'
const compressions: Record<LayerCompression, { compress: (tar: Buffer) => Buffer, type: string }> = {
  gzip: { compress: tar => gzipSync(tar), type: `${layerType}+gzip` },
  zstd: { compress: tar => zstdCompressSync(tar), type: `${layerType}+zstd` },
  none: { compress: tar => tar, type: layerType },
}

/** Writes OCI image layouts as a client might bring them. */
export class LayoutWriter {
  readonly dir: string

  constructor (dir: string) {
    this.dir = dir
    mkdirSync(join(dir, 'blobs/sha256'), { recursive: true })
    writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  }

  blob (content: Buffer | object, mediaType: string): Descriptor {
    const bytes = Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content))
    const digest = sha256(bytes)
    writeFileSync(this.blobPath(digest), bytes)
    return { mediaType, digest, size: bytes.length }
  }

  blobPath (digest: string): string {
    return join(this.dir, 'blobs', digest.replace(':', '/'))
  }

  image (parts: ImageParts = {}): Descriptor & { layers: Descriptor[] } {
    const [os, architecture] = (parts.platform ?? hostPlatform).split('/')
    const tars = parts.layers ?? []
    const { compress, type } = compressions[parts.compression ?? 'gzip']
    const layers = tars.map(tar => this.blob(compress(tar), parts.layerType ?? type))
    const config = this.blob({
      os,
      architecture,
      config: parts.config ?? {},
      rootfs: { type: 'layers', diff_ids: parts.diffIds ?? tars.map(sha256) },
    }, 'application/vnd.oci.image.config.v1+json')
    return { ...this.blob({ schemaVersion: 2, mediaType: manifestType, config, layers }, manifestType), layers }
  }

  index (images: Array<Descriptor & { tag?: string }>): void {
    const manifests = images.map(({ mediaType, digest, size, tag }) => ({
      mediaType,
      digest,
      size,
      ...(tag === undefined ? {} : { annotations: { 'org.opencontainers.image.ref.name': tag } }),
    }))
    writeFileSync(join(this.dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }))
  }
}

/** A tar archive of a directory, as the current user sees it, or of the named members in their order. */
export function tarOf (dir: string, members: string[] = ['.']): Buffer {
  return execFileSync('tar', ['--numeric-owner', '--format=pax', '-C', dir, '-cf', '-', ...members], { maxBuffer: 1024 ** 3 })
}

export function sha256 (bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
