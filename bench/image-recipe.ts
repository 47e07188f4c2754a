/**
 * The image of the benchmark: about 1.1 GB of files in five layers, made of what this machine has and filled up by content that is the same
 * everywhere. It is made once and kept, as a registry's storage, until the recipe changes.
 */
import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { access, copyFile, mkdir, mkdtemp, readFile, readlink, realpath, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { findProgram } from '../src/host/command.ts'
import { hostPlatform } from '../src/services/images/oci-manifest.ts'
import { TestRegistry } from '../test/support/registry.ts'
import { mustRun } from './child.ts'
import { HalfCompressible } from './half-compressible.ts'

/** Raise it with every change of what the image is made of. */
const recipeVersion = 2

export const imageName = 'bench/big:v1'
/** What a sandbox runs, and what it says. */
export const firstCommand = ['/usr/bin/python3', '-c', 'print(1)']
export const firstOutput = '1\n'
/** A large file of the image, and of the directory that its reading is compared with. */
export const largeFile = '/data/large.bin'
export const largeFileBytes = 200 * 1024 ** 2
export const busybox = '/usr/bin/busybox'
export const dd = '/usr/bin/dd'

const wholeBytes = 1_120_000_000
const wholeFiles = 42_000
const fillerFileBytes = 12_000
const python = '/usr/bin/python3'
const pushWithinMs = 10 * 60_000

export interface BenchImage {
  /** Of a registry; not to be written to. */
  registryDir: string
  /** A small userland with the large file. */
  plainDir: string
  facts: ImageFacts
}

export interface ImageFacts {
  digest: string
  layers: number
  /** Of all blobs, as they are transferred. */
  blobBytes: number
  /** Of all layers' archives. */
  tarBytes: number
  files: number
}

interface Layer { digest: string, diffId: string, blobBytes: number, tarBytes: number }

/** Finds the image, or makes it, which takes a minute or two. */
export async function provideImage (progress: (text: string) => void): Promise<BenchImage> {
  const home = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'berth-bench')
  const dir = join(home, `image-${recipeVersion}`)
  const registryDir = join(dir, 'registry')
  const factsPath = join(dir, 'facts.json')
  if (!await exists(factsPath)) {
    progress(`making the image, once, in ${dir}`)
    await rm(dir, { recursive: true, force: true })
    await mkdir(home, { recursive: true })
    const work = await mkdtemp(join(home, '.making-'))
    try {
      const facts = await makeImage(work, progress)
      await writeFile(join(work, 'facts.json'), JSON.stringify(facts))
      for (const name of ['stage', 'layout']) await rm(join(work, name), { recursive: true, force: true })
      await rename(work, dir)
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  }
  return { registryDir, plainDir: join(dir, 'plain'), facts: JSON.parse(await readFile(factsPath, 'utf8')) as ImageFacts }
}

async function makeImage (work: string, progress: (text: string) => void): Promise<ImageFacts> {
  const stage = join(work, 'stage')
  const filler = new HalfCompressible('berth bench')
  await stagePython(join(stage, '0'))
  await stageTools(join(stage, '1'))
  await stagePackages(join(stage, '2'))
  const names = ['0', '1', '2', '3', '4']
  await mkdir(join(stage, '3', dirname(largeFile)), { recursive: true })
  await filler.writeFile(join(stage, '3', largeFile), largeFileBytes)
  await fillUp(stage, filler)
  await stageTop(join(stage, '4'))
  const files = await count(stage)
  progress('packing its layers')
  const layout = join(work, 'layout')
  const layers: Layer[] = []
  for (const name of names) layers.push(await packLayer(join(stage, name), layout))
  const digest = await writeLayout(layout, layers)
  await stagePlain(join(work, 'plain'), join(stage, '3', largeFile))
  progress('pushing it')
  await push(layout, join(work, 'registry'))
  const sum = (pick: (layer: Layer) => number) => layers.reduce((total, layer) => total + pick(layer), 0)
  return { digest, layers: layers.length, blobBytes: sum(layer => layer.blobBytes), tarBytes: sum(layer => layer.tarBytes), files }
}

/** Python with its libraries: what the sandboxes of the benchmark run. */
async function stagePython (root: string): Promise<void> {
  if (!await exists(python)) throw new Error(`the image of the benchmark runs Python, and this machine has no ${python}; install python3`)
  await stageUserland(root)
  const { stdout: library } = await mustRun(python, ['-I', '-c', 'import sysconfig; print(sysconfig.get_path("stdlib"))'])
  const interpreter = await realpath(python)
  await copyProgram(root, interpreter)
  await symlink(interpreter, join(root, python))
  for (const path of [library.trim(), '/usr/lib/python3', `/etc/${library.trim().split('/').at(-1)}`]) await copyInto(root, path)
}

/** Busybox and dd, which tells its time as busybox's does not, in directories as a merged /usr has them. */
async function stageUserland (root: string): Promise<void> {
  for (const dir of ['usr/bin', 'usr/lib', 'usr/lib64', 'etc', 'tmp', 'data']) await mkdir(join(root, dir), { recursive: true })
  for (const dir of ['bin', 'lib', 'lib64']) await symlink(`usr/${dir}`, join(root, dir))
  await symlink('busybox', join(root, 'usr/bin/sh'))
  await copyFile(findProgram('busybox') ?? '/bin/busybox', join(root, busybox))
  await copyProgram(root, dd)
  await writeFile(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
}

async function stageTools (root: string): Promise<void> {
  await mkdir(join(root, 'usr/local/bin'), { recursive: true })
  await copyFile(process.execPath, join(root, 'usr/local/bin/node'))
  for (const path of ['/usr/lib/gcc', '/usr/include']) await copyInto(root, path)
}

async function stagePackages (root: string): Promise<void> {
  const modules = new URL('../node_modules', import.meta.url).pathname
  await mkdir(join(root, 'opt'), { recursive: true })
  await mustRun('cp', ['--archive', await realpath(modules), join(root, 'opt/node_modules')], { timeout: 0 })
  for (const path of ['/usr/share/doc', '/usr/share/perl']) await copyInto(root, path)
  await mkdir(join(root, 'opt/replaced'), { recursive: true })
  for (const name of ['a', 'b']) await writeFile(join(root, 'opt/replaced', name), `${name} of a lower layer\n`)
  await writeFile(join(root, 'opt/deleted'), 'deleted by a higher layer\n')
}

/** An application, a whiteout and an opaque directory (OCI image-spec, layer.md). */
async function stageTop (root: string): Promise<void> {
  await mkdir(join(root, 'opt/replaced'), { recursive: true })
  await mkdir(join(root, 'app'), { recursive: true })
  await writeFile(join(root, 'opt/.wh.deleted'), '')
  await writeFile(join(root, 'opt/replaced/.wh..wh..opq'), '')
  await writeFile(join(root, 'opt/replaced/c'), 'c of the top layer\n')
  await writeFile(join(root, 'app/main.py'), 'print(1)\n')
}

/** Machines differ in what they have: the image's size and number of files do not. */
async function fillUp (stage: string, filler: HalfCompressible): Promise<void> {
  const { stdout } = await mustRun('du', ['--summarize', '--apparent-size', '--block-size=1', stage])
  const missingBytes = Math.max(0, wholeBytes - Number(stdout.split('\t')[0]))
  const missingFiles = Math.max(0, wholeFiles - await count(stage), Math.ceil(missingBytes / (64 * fillerFileBytes)))
  const bytes = missingFiles === 0 ? 0 : Math.min(64 * fillerFileBytes, Math.floor(missingBytes / missingFiles))
  for (let i = 0; i < missingFiles; i++) {
    const dir = join(stage, '2/opt/filler', String(i >> 8))
    await mkdir(dir, { recursive: true })
    await filler.writeFile(join(dir, `${i}.bin`), bytes)
  }
}

async function stagePlain (root: string, large: string): Promise<void> {
  await stageUserland(root)
  await copyFile(large, join(root, largeFile))
}

/** Copies a program with the libraries that it is linked with. */
async function copyProgram (root: string, path: string): Promise<void> {
  const { stdout } = await mustRun('ldd', [path])
  await copyInto(root, path)
  for (const [library] of stdout.matchAll(/\/\S+\.so\S*/g)) await copyInto(root, library)
}

/** Copies what lies at a path, if anything does, to the same path below a root; links stay links. */
async function copyInto (root: string, path: string): Promise<void> {
  const source = await realpath(dirname(path)).then(dir => join(dir, path.slice(dirname(path).length + 1)), () => undefined)
  if (source === undefined || !await exists(source)) return
  await mkdir(join(root, dirname(source)), { recursive: true })
  await mustRun('cp', ['--archive', '--no-target-directory', source, join(root, source)], { timeout: 0 })
  // A library is asked for by its link, and the link leads to the file.
  const link = await readlink(source).catch(() => undefined)
  if (link !== undefined) await copyInto(root, await realpath(source))
}

async function count (dir: string): Promise<number> {
  return (await mustRun('find', [dir, '-type', 'f', '-printf', 'x'])).stdout.length
}

/** Writes a directory as a gzip layer into a layout. */
async function packLayer (root: string, layout: string): Promise<Layer> {
  const blobs = join(layout, 'blobs/sha256')
  await mkdir(blobs, { recursive: true })
  const making = join(layout, 'making')
  const tar = spawn('tar', ['--create', '--sort=name', '--numeric-owner', '--owner=0', '--group=0', '--directory', root, '.'], { stdio: ['ignore', 'pipe', 'inherit'] })
  const closed = once(tar, 'close')
  const plain = new Meter()
  const packed = new Meter()
  await pipeline(tar.stdout, chunks => plain.pass(chunks), createGzip({ level: 6 }), chunks => packed.pass(chunks), createWriteStream(making))
  const [exitCode] = await closed as [number | null]
  if (exitCode !== 0) throw new Error(`tar ended with ${exitCode}`)
  const hex = packed.hex()
  await rename(making, join(blobs, hex))
  return { digest: `sha256:${hex}`, diffId: `sha256:${plain.hex()}`, blobBytes: packed.bytes, tarBytes: plain.bytes }
}

class Meter {
  bytes = 0
  readonly #hash = createHash('sha256')

  async * pass (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      this.bytes += chunk.length
      this.#hash.update(chunk)
      yield chunk
    }
  }

  hex (): string {
    return this.#hash.digest('hex')
  }
}

/** Answers the digest of the manifest. */
async function writeLayout (layout: string, layers: readonly Layer[]): Promise<string> {
  const [os, architecture] = hostPlatform.split('/')
  const put = async (mediaType: string, content: unknown) => {
    const text = JSON.stringify(content)
    const hex = createHash('sha256').update(text).digest('hex')
    await writeFile(join(layout, 'blobs/sha256', hex), text)
    return { mediaType, digest: `sha256:${hex}`, size: Buffer.byteLength(text) }
  }
  const type = (name: string) => `application/vnd.oci.image.${name}`
  const config = await put(type('config.v1+json'), {
    os,
    architecture,
    config: { Env: ['PATH=/usr/local/bin:/usr/bin:/bin'], Cmd: firstCommand },
    rootfs: { type: 'layers', diff_ids: layers.map(layer => layer.diffId) },
  })
  const manifest = await put(type('manifest.v1+json'), {
    schemaVersion: 2,
    mediaType: type('manifest.v1+json'),
    config,
    layers: layers.map(({ digest, blobBytes }) => ({ mediaType: type('layer.v1.tar+gzip'), digest, size: blobBytes })),
  })
  const tagged = { ...manifest, annotations: { 'org.opencontainers.image.ref.name': 'v1' } }
  await writeFile(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [tagged] }))
  await writeFile(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }))
  return manifest.digest
}

async function push (layout: string, registryDir: string): Promise<void> {
  await mkdir(registryDir)
  const releases: Array<() => void | Promise<void>> = []
  try {
    const registry = await TestRegistry.start({ after: release => { releases.push(release) } }, { dir: registryDir })
    await mustRun('skopeo', ['copy', '--quiet', '--preserve-digests', '--dest-tls-verify=false', `oci:${layout}:v1`, `docker://${registry.host}/${imageName}`], { timeout: pushWithinMs })
  } finally {
    for (const release of releases) await release()
  }
}

async function exists (path: string): Promise<boolean> {
  return await access(path).then(() => true, () => false)
}
