/** A large image from a registry: ours against podman, and against skopeo with umoci, in turns. */
import { randomBytes } from 'node:crypto'
import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import { FaultyProxy, TestRegistry, type Teardown } from '../test/support/registry.ts'
import { measureShared, measureWhole, settleDisk, shareIndexes, type ImageBerthOptions } from './image-berth.ts'
import { imageName, provideImage, type ImageFacts } from './image-recipe.ts'
import { measurePodman, measureSkopeo } from './image-rivals.ts'
import { ImageSamples, type ImageSource, type Traffic } from './image-samples.ts'

export interface ImageBenchOptions {
  rounds: number
  dir: string
  stack: ResourceStack
  /** `podman` is left out where it is not installed. */
  programs: { runsc: string, podman: string | undefined }
  signal: AbortSignal
  progress: (text: string) => void
}

/** Of a network that is not bad. */
const wan = { latencyMs: 10, bytesPerSecond: 60e6 }

export interface ImageOutcome { image: ImageFacts, samples: ImageSamples }

export async function measureImages (options: ImageBenchOptions): Promise<ImageOutcome> {
  const { rounds, dir, stack, programs, signal, progress } = options
  const image = await provideImage(progress)
  const samples = new ImageSamples()
  const { registry, proxy } = await startRegistry(image.registryDir, dir, stack)
  const sources = (['wan', 'loopback'] as const).map((link): ImageSource => ({ link, reference: `${link === 'wan' ? proxy.host : registry.host}/${imageName}` }))
  const common: Omit<ImageBerthOptions, 'dir'> = {
    stack,
    digest: image.facts.digest,
    plainDir: image.plainDir,
    samples,
    readTraffic: () => readTraffic(proxy),
    warmRegistry: () => readFiles(registry.storage),
    signal,
  }
  progress('images: sharing the indexes')
  const settings = await indexSettings(dir)
  const loopback = { link: 'loopback' as const, reference: `${registry.host}/${imageName}` }
  const { digest, layers } = image.facts
  const shared = await shareIndexes(loopback, settings, { dir: join(dir, 'sharing'), stack, digest, layers, countShared: () => countShared(registry.host) })
  const { runsc, podman } = programs
  const contestants: Array<[string, (source: ImageSource, dir: string) => Promise<void>]> = [
    ['ours', (source, dir) => measureWhole(source, { ...common, dir })],
    ['skopeo and umoci', (source, dir) => measureSkopeo(source, { dir, runsc, samples })],
  ]
  if (shared) contestants.push(['ours, with shared indexes', (source, dir) => measureShared(source, shared, { ...common, dir })])
  else progress('images: the indexes were not shared; starts with shared ones are left out')
  if (podman) contestants.push(['podman', (source, dir) => measurePodman(source, { dir, runsc, podman, samples })])
  for (let round = 0; round < rounds; round++) {
    // The first differs from round to round, so that no one always follows the same other.
    const first = round % contestants.length
    for (const [name, measure] of [...contestants.slice(first), ...contestants.slice(0, first)]) {
      // What the network hides is seen once: a round of everything takes minutes.
      for (const source of round === 0 ? sources : sources.filter(({ link }) => link === 'wan')) {
        signal.throwIfAborted()
        progress(`images: round ${round + 1} of ${rounds}: ${name}, ${source.link}`)
        await settleDisk()
        await measure(source, join(dir, `${round}-${source.link}-${contestants.findIndex(([other]) => other === name)}`))
      }
    }
  }
  return { image: image.facts, samples }
}

/** A real registry with the image, and the way to it through a slower network. Indexes that are pushed go with this run. */
async function startRegistry (imageDir: string, dir: string, stack: ResourceStack): Promise<{ registry: TestRegistry, proxy: FaultyProxy }> {
  const teardown: Teardown = { after: release => { stack.defer('the registry of the images', release) } }
  const registryDir = join(dir, 'registry')
  await cp(imageDir, registryDir, { recursive: true })
  const registry = await TestRegistry.start(teardown, { dir: registryDir })
  const proxy = await FaultyProxy.start(teardown, registry.host, wan)
  return { registry, proxy }
}

async function indexSettings (dir: string): Promise<Record<string, string>> {
  const keyPath = join(dir, 'index.key')
  await mkdir(dir, { recursive: true })
  await writeFile(keyPath, randomBytes(32), { mode: 0o600 })
  return { BERTH_IMAGE_INDEX_STORE: 'registry', BERTH_IMAGE_INDEX_KEY_FILE: keyPath }
}

async function countShared (host: string): Promise<{ indexes: number, profiles: number }> {
  const [repository] = imageName.split(':')
  const { tags } = await (await fetch(`http://${host}/v2/${repository}/tags/list`)).json() as { tags: string[] }
  const count = (prefix: string) => tags.filter(tag => tag.startsWith(prefix)).length
  return { indexes: count('berth-index-'), profiles: count('berth-profile-') }
}

async function readFiles (dir: string): Promise<void> {
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) await readFile(join(entry.parentPath, entry.name))
  }
}

/** What has come through the proxy; an answer under way counts with what was sent of it. */
function readTraffic (proxy: FaultyProxy): Traffic {
  return { requests: proxy.seen.length, bytes: proxy.bytesOf(/^/) }
}
