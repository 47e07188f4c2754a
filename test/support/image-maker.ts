/** Images of small trees, or of hostile archives, and their way into a registry. */
import { execFile, execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { hostPlatform, type Descriptor } from '../../src/services/images/oci-manifest.ts'
import { indexType, LayoutWriter, tarOf, type LayerCompression } from './layout-writer.ts'
import type { Teardown, TestRegistry } from './registry.ts'

const run = promisify(execFile)

/** What goes into a layer, in this order. A tar is taken as it is, and alone. */
export interface LayerSource {
  /** Content by path below the root; a file may say its mode. */
  files?: Record<string, string | Buffer | { content: string | Buffer, mode: number }>
  /** Shell commands, run in the layer's root as the current user. */
  script?: string
  tar?: Buffer
}

export interface ImageSource {
  /** The lowest first. */
  layers?: LayerSource[]
  /** As in an OCI configuration: Entrypoint, Cmd, Env, User, WorkingDir, StopSignal. */
  config?: Record<string, unknown>
  compression?: LayerCompression
  /** `os/architecture`; this host's if not given. */
  platform?: string
}

/** An image in a layout of its own that goes with the test. */
export interface MadeImage {
  layout: string
  tag: string
  digest: string
  /** Descriptors of the layers; none for an index. */
  layers: Descriptor[]
  /** The layers' archives, as they are before compression. */
  tars: Buffer[]
}

const tag = 'image'

/** Makes an image. */
export function makeImage (t: Teardown, source: ImageSource): MadeImage {
  const { writer, dir } = newLayout(t)
  const { image, tars } = writeImage(writer, dir, source)
  writer.index([{ ...image, tag }])
  return { layout: writer.dir, tag, digest: image.digest, layers: image.layers, tars }
}

/** Makes an index of images, each with its `platform`. */
export function makeIndex (t: Teardown, sources: ImageSource[]): MadeImage {
  const { writer, dir } = newLayout(t)
  const manifests = sources.map((source, i) => {
    const { image: { mediaType, digest, size } } = writeImage(writer, join(dir, String(i)), source)
    const [os, architecture] = (source.platform ?? hostPlatform).split('/')
    return { mediaType, digest, size, platform: { os, architecture } }
  })
  const index = writer.blob({ schemaVersion: 2, mediaType: indexType, manifests }, indexType)
  writer.index([{ ...index, tag }])
  return { layout: writer.dir, tag, digest: index.digest, layers: [], tars: [] }
}

/** Pushes with skopeo; returns the reference, `127.0.0.1:PORT/name:tag`. An index goes with all its images. */
export async function pushImage (image: MadeImage, registry: TestRegistry, name: string): Promise<string> {
  const reference = `${registry.host}/${name.includes(':') ? name : `${name}:latest`}`
  const { basicAuth } = registry.options
  const credentials = basicAuth ? ['--dest-creds', `${basicAuth.username}:${basicAuth.password}`] : []
  await run('skopeo', ['copy', '--quiet', '--all', '--preserve-digests', '--dest-tls-verify=false', ...credentials, `oci:${image.layout}:${image.tag}`, `docker://${reference}`])
  return reference
}

function newLayout (t: Teardown): { writer: LayoutWriter, dir: string } {
  const dir = mkdtempSync(join(tmpdir(), 'berth-image-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return { writer: new LayoutWriter(join(dir, 'layout')), dir }
}

function writeImage (writer: LayoutWriter, dir: string, source: ImageSource): { image: ReturnType<LayoutWriter['image']>, tars: Buffer[] } {
  const tars = (source.layers ?? []).map((layer, i) => layer.tar ?? tarOfSource(join(dir, `layer-${i}`), layer))
  const { config, compression, platform } = source
  return { image: writer.image({ layers: tars, config, compression, platform }), tars }
}

function tarOfSource (root: string, { files = {}, script }: LayerSource): Buffer {
  mkdirSync(root, { recursive: true, mode: 0o755 })
  for (const [path, file] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    const { content, mode } = typeof file === 'string' || Buffer.isBuffer(file) ? { content: file, mode: 0o644 } : file
    writeFileSync(join(root, path), content, { mode })
  }
  if (script !== undefined) execFileSync('sh', ['-euc', script], { cwd: root })
  return tarOf(root)
}
