/** What tests of a daemon's images have in common: images of a small root, ways to make them lazy, and the processes that serve them. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Event, EventType } from '../../src/schemas/event.ts'
import type { ImageDetail } from '../../src/schemas/image.ts'
import type { ErrorBody } from '../../src/schemas/wire.ts'
import { makeImage, pushImage, type ImageSource, type LayerSource } from './image-maker.ts'
import { tarOf } from './layout-writer.ts'
import type { TestRegistry, Teardown } from './registry.ts'
import type { Answer, TestDaemon } from './test-daemon.ts'

export const MiB = 1024 ** 2
/** So long that nothing is fetched but what is read. */
export const neverFills = { BERTH_IMAGE_FILL_DELAY_MS: '3600000', BERTH_IMAGE_READ_TIMEOUT_MS: '2000' }

/** A root with busybox and two users; the same layer in every image. */
export const rootLayer: LayerSource = { tar: rootTar() }

function rootTar (): Buffer {
  const dir = mkdtempSync(join(tmpdir(), 'berth-root-'))
  try {
    mkdirSync(join(dir, 'etc'))
    writeFileSync(join(dir, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nalice:x:1234:1234:Alice:/home/alice:/bin/sh\n')
    writeFileSync(join(dir, 'etc/group'), 'root:x:0:\nalice:x:1234:\nstaff:x:50:alice\n')
    const script = 'mkdir bin tmp root home home/alice; cp /usr/bin/busybox bin/busybox; for name in $(busybox --list); do [ "$name" = busybox ] || ln -s busybox "bin/$name"; done'
    execFileSync('sh', ['-euc', `${script}; chmod 1777 tmp; chmod 755 .`], { cwd: dir })
    return tarOf(dir)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

/** Files of random bytes, which no compression makes smaller: name below /data → size. */
export function randomFiles (sizes: Record<string, number>): Record<string, Buffer> {
  return Object.fromEntries(Object.entries(sizes).map(([name, bytes]) => [`data/${name}`, randomBytes(bytes)]))
}

/** As sha256sum prints it inside a sandbox. */
export function sumLines (files: Record<string, Buffer>): string {
  return Object.entries(files).map(([path, content]) => `${hashOf(content)}  /${path}\n`).join('')
}

export function hashOf (content: Buffer): string {
  return createHash('sha256').update(content).digest('hex')
}

/** An image in a registry, by a name that is the registry's or a proxy's. */
export interface Published {
  reference: string
  digest: string
  /** Digests of its layers, the bottom one first. */
  blobs: string[]
}

/** Makes an image and pushes it; `host` in its reference is that of a proxy where one is given. */
export async function publish (t: Teardown, registry: TestRegistry, source: ImageSource, options: { name: string, host?: string }): Promise<Published> {
  const image = makeImage(t, source)
  const pushed = await pushImage(image, registry, options.name)
  return { reference: pushed.replace(registry.host, options.host ?? registry.host), digest: image.digest, blobs: image.layers.map(layer => layer.digest) }
}

export function pull (daemon: TestDaemon, reference: string, more: object = {}): Promise<Answer<ImageDetail & ErrorBody>> {
  return daemon.request('POST', '/v1/images/pull', { reference, ...more })
}

/** The image as the daemon has it. */
export async function imageOf (daemon: TestDaemon, digest: string): Promise<ImageDetail> {
  const answer = await daemon.request<ImageDetail>('GET', `/v1/images/${digest}`)
  assert.equal(answer.status, 200, answer.text)
  return answer.body
}

/** Leaves of an image only the indexes of its layers: whoever uses it from here on has it lazily. */
export async function leaveIndexes (daemon: TestDaemon, reference: string): Promise<string> {
  const pulled = await pull(daemon, reference, { mode: 'eager' })
  assert.equal(pulled.status, 200, pulled.text)
  const removed = await daemon.request('DELETE', `/v1/images/${pulled.body.digest}`)
  assert.equal(removed.status, 200, removed.text)
  return pulled.body.digest
}

/** Events of a type, the oldest first. */
export async function eventsOf (daemon: TestDaemon, type: EventType): Promise<Event[]> {
  const answer = await daemon.request<{ items: Event[] }>('GET', `/v1/events?type=${type}&limit=1000`)
  assert.equal(answer.status, 200, answer.text)
  return answer.body.items
}

/** The keeper and the image server of a daemon, by pid. */
export async function imageProcesses (daemon: TestDaemon): Promise<{ generation: number, keeper: number, server: number }> {
  const dir = join(daemon.runDir, 'image-server')
  const generation = Math.max(...(await readdir(dir)).map(Number))
  const keeper = Number(await readFile(join(dir, String(generation), 'keeper.pid'), 'latin1'))
  const server = await childOf(keeper, 'image-server.ts')
  return { generation, keeper, server }
}

async function childOf (parent: number, word: string): Promise<number> {
  for (const name of (await readdir('/proc')).filter(entry => /^\d+$/.test(entry))) {
    const [status, line] = await Promise.all([readFile(`/proc/${name}/status`, 'latin1').catch(() => ''), readFile(`/proc/${name}/cmdline`, 'latin1').catch(() => '')])
    if (new RegExp(`^PPid:\\s+${parent}$`, 'm').test(status) && line.includes(word)) return Number(name)
  }
  return 0
}

/** What is on the disk of layers and images: names below images/, without indexes. */
export async function storedNames (daemon: TestDaemon): Promise<string[]> {
  const images = join(daemon.stateDir, 'images')
  const kinds = ['layers', 'layered', 'unpacked', 'tmp', 'leases']
  const names = await Promise.all(kinds.map(async kind => (await readdir(join(images, kind)).catch(() => [])).map(name => `${kind}/${name}`)))
  return names.flat()
}
