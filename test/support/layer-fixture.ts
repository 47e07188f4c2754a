import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { unmount } from '../../src/host/mount.ts'
import type { LayerDescriptor } from '../../src/services/images/layers/image-layer.ts'
import { LayerDirectory } from '../../src/services/images/layers/layer-directory.ts'

export interface LayerFixture {
  layer: LayerDescriptor
  blob: Buffer
  openBlob: (offset: number) => AsyncIterable<Buffer>
}

export const mediaTypes = {
  plain: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
}

const compress = { plain: (bytes: Buffer) => bytes, gzip: (bytes: Buffer) => gzipSync(bytes, { level: 6 }), zstd: (bytes: Buffer) => zstdCompressSync(bytes) }

/** A layer of this tar. */
export function layerOf (tar: Buffer, compression: keyof typeof mediaTypes = 'plain'): LayerFixture {
  return blobOf(compress[compression](tar), { diffId: digestOf(tar), mediaType: mediaTypes[compression] })
}

/** A layer of this blob, whatever it is. */
export function blobOf (blob: Buffer, facts: { diffId: string, mediaType: string }): LayerFixture {
  return { layer: { ...facts, digest: digestOf(blob), sizeBytes: blob.length }, blob, openBlob: offset => chunksOf(blob.subarray(offset)) }
}

async function * chunksOf (bytes: Buffer): AsyncGenerator<Buffer> {
  const chunkBytes = 64 * 1024
  for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes)
}

export function digestOf (bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

export interface LayersFixture {
  directory: LayerDirectory
  /** Around the directory for layers, and goes with the test. */
  root: string
  /** Before that what is deferred, the latest first. */
  defer: (release: () => Promise<void>) => void
  /** Where something is mounted below `root`: unmounted then. */
  mounted: (target: string) => void
}

/** A directory for layers. */
export async function layerDirectory (t: TestContext): Promise<LayersFixture> {
  const root = mkdtempSync(join(tmpdir(), 'berth-layers-'))
  const releases: Array<() => Promise<void>> = []
  t.after(async () => {
    for (const release of releases.reverse()) await release()
    rmSync(root, { recursive: true, force: true })
  })
  const directory = new LayerDirectory({ dir: join(root, 'layers') })
  await directory.open()
  return {
    directory,
    root,
    defer: release => { releases.push(release) },
    mounted: target => { releases.push(() => unmount(target)) },
  }
}
