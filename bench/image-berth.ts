/** Ours with a large image: pulled whole, started from whole, started from nothing, read. Each round has daemons with directories of their own. */
import { access, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { unmount } from '../src/host/mount.ts'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import type { ExecResult } from '../src/schemas/exec.ts'
import type { Sandbox, SandboxCreate } from '../src/schemas/sandbox.ts'
import { BerthDaemon } from './berth-daemon.ts'
import { mustRun } from './child.ts'
import { mustBe, timed } from './contestant.ts'
import { busybox, dd, firstCommand, firstOutput, largeFile, largeFileBytes } from './image-recipe.ts'
import type { ColdStart, ImageSamples, ImageSource, Traffic } from './image-samples.ts'

export interface ImageBerthOptions {
  /** Made here, and removed with all that is below. */
  dir: string
  /** Takes what could not be given back. */
  stack: ResourceStack
  /** Of the image. */
  digest: string
  /** A userland with the same large file. */
  plainDir: string
  samples: ImageSamples
  /** Reads the registry's files: a registry is another machine, whose disk is not measured. */
  warmRegistry: () => Promise<void>
  /** What came through the slower network. */
  readTraffic: () => Traffic
  signal: AbortSignal
}

/** How often in one round what takes a second or two is measured. */
const repeats = 3
const readRepeats = 5
const sharedWithinMs = 20_000
// A start is recorded for ten seconds.
const profileWithinMs = 15_000

/** A daemon whose images are nobody else's: whole first, then from nothing but the indexes that were made with it. */
export async function measureWhole (source: ImageSource, options: ImageBerthOptions): Promise<void> {
  await withDaemon(options, {}, daemon => measureWholeOn(daemon, source, options))
}

/** Daemons that know nothing of the image but where its indexes are shared. */
export async function measureShared (source: ImageSource, shared: SharedIndexes, options: ImageBerthOptions): Promise<void> {
  for (let i = 0; i < repeats; i++) {
    options.signal.throwIfAborted()
    await withDaemon({ ...options, dir: join(options.dir, String(i)) }, shared.settings, async daemon => {
      await daemon.runEcho()
      await startCold(daemon, source, shared.hasProfile ? 'cold, index and profile in the registry' : 'cold, index in the registry', options)
    })
  }
}

export interface SharedIndexes {
  settings: Readonly<Record<string, string>>
  /** Whether what a start reads first is shared too. */
  hasProfile: boolean
}

export interface SharingOptions extends Pick<ImageBerthOptions, 'dir' | 'stack' | 'digest'> {
  layers: number
  /** How many indexes and boot profiles are shared. */
  countShared: () => Promise<{ indexes: number, profiles: number }>
}

/** Has the indexes made and shared, and a boot profile; undefined when no indexes came to be shared. */
export async function shareIndexes (source: ImageSource, settings: Readonly<Record<string, string>>, options: SharingOptions): Promise<SharedIndexes | undefined> {
  const { digest, countShared, layers } = options
  let shared: SharedIndexes | undefined
  await withDaemon(options, settings, async daemon => {
    await pull(daemon, source)
    if (!await comesTrue(async () => (await countShared()).indexes >= layers, sharedWithinMs)) return
    await daemon.request('DELETE', `/v1/images/${digest}`, 200)
    await startOnce(daemon, source.reference)
    shared = { settings, hasProfile: await comesTrue(async () => (await countShared()).profiles > 0, profileWithinMs) }
  })
  return shared
}

async function comesTrue (isTrue: () => Promise<boolean>, withinMs: number): Promise<boolean> {
  const until = Date.now() + withinMs
  for (;;) {
    if (await isTrue()) return true
    if (Date.now() > until) return false
    await delay(100)
  }
}

async function measureWholeOn (daemon: BerthDaemon, source: ImageSource, options: ImageBerthOptions): Promise<void> {
  const { samples, digest, readTraffic, signal } = options
  const { link, reference } = source
  samples.add(link, 'eager pull', await timed(() => pull(daemon, source)))
  samples.add(link, 'first start of a complete image', (await startOnce(daemon, reference)).durationMs)
  for (let i = 0; i < repeats; i++) {
    const before = readTraffic()
    const { sandbox, durationMs } = await startOnce(daemon, reference)
    samples.add(link, 'warm', durationMs)
    samples.add(link, 'rootfs step', stepMs(sandbox, 'rootfs'))
    samples.add(link, 'image step', stepMs(sandbox, 'image'))
    samples.add(link, 'requests of a second sandbox', readTraffic().requests - before.requests)
  }
  if (link === 'wan') {
    await measureReads(daemon, reference, options)
    for (let i = 0; i < repeats; i++) {
      await restartUnmounted(daemon)
      samples.add(link, 'after a restart of the daemon', (await startOnce(daemon, reference)).durationMs)
    }
  }
  signal.throwIfAborted()
  await startForgotten(daemon, source, 'cold, index here', options)
  if (!await hasProfile(daemon, digest)) return
  for (let i = 0; i < repeats; i++) await startForgotten(daemon, source, 'cold, index and profile here', options)
}

/** Starts an image of which only the index is left. */
async function startForgotten (daemon: BerthDaemon, source: ImageSource, measure: ColdStart, options: ImageBerthOptions): Promise<void> {
  await daemon.request('DELETE', `/v1/images/${options.digest}`, 200)
  // The kernel remembers the content of served files by their names, as long as it has memory to spare.
  await dropCaches()
  await options.warmRegistry()
  // The programs that every start needs are in memory again.
  await daemon.runEcho()
  await startCold(daemon, source, measure, options)
}

/** Whether a profile of the image's first start came to be. */
async function hasProfile (daemon: BerthDaemon, digest: string): Promise<boolean> {
  const path = join(daemon.stateDir, 'images/indexes', digest.replace('sha256:', 'profile-'))
  return await comesTrue(() => access(path).then(() => true, () => false), profileWithinMs)
}

async function startCold (daemon: BerthDaemon, source: ImageSource, measure: ColdStart, { samples, readTraffic }: ImageBerthOptions): Promise<void> {
  await settleDisk()
  const before = readTraffic()
  let bytes = 0
  const { durationMs } = await startOnce(daemon, source.reference, () => { bytes = readTraffic().bytes - before.bytes })
  samples.add(source.link, measure, durationMs)
  // What does not come through the slower network is not counted.
  if (source.link === 'wan') samples.add(source.link, `${measure}, bytes`, bytes)
}

/** The same file out of the image and out of a directory, in turn: from the disk first, then as it is again. */
async function measureReads (daemon: BerthDaemon, reference: string, { plainDir, samples }: ImageBerthOptions): Promise<void> {
  const idle = [busybox, 'sleep', '3600']
  const readers = [
    { id: (await daemon.create(asRoot({ image: reference, entrypoint: idle }))).id, first: 'first read', repeated: 'repeated read' },
    { id: (await daemon.create(asRoot({ image: `dir:${plainDir}`, entrypoint: idle }))).id, first: 'first read of a directory', repeated: 'repeated read of a directory' },
  ] as const
  for (let i = 0; i < repeats; i++) {
    for (const { id, first } of i % 2 === 0 ? readers : readers.toReversed()) {
      await dropCaches()
      samples.add('wan', first, await readMBs(daemon, id))
    }
    for (const { id, repeated } of i % 2 === 0 ? readers : readers.toReversed()) {
      for (let again = 0; again < readRepeats; again++) samples.add('wan', repeated, await readMBs(daemon, id))
    }
  }
  for (const { id } of readers) await daemon.remove(id)
}

/** What dd says of its own time, in MB/s: the exec around it takes as long as the reading. */
async function readMBs (daemon: BerthDaemon, id: string): Promise<number> {
  const argv = [dd, `if=${largeFile}`, 'of=/dev/null', 'bs=1M']
  const { exitCode, stderr } = await daemon.request<ExecResult>('POST', `/v1/sandboxes/${id}/execs?wait=true`, 200, { argv })
  mustBe(`the exit code of dd (${stderr})`, exitCode, 0)
  const [, bytes, seconds] = /^(\d+) bytes .* copied, ([\d.]+) s,/m.exec(stderr) ?? []
  mustBe('the bytes that dd read', Number(bytes), largeFileBytes)
  return largeFileBytes / 1e6 / Number(seconds)
}

/** A sandbox from the wish to its first output; it is gone when this returns. */
async function startOnce (daemon: BerthDaemon, image: string, onOutput?: () => void): Promise<{ sandbox: Sandbox, durationMs: number }> {
  const started = await daemon.startUntilOutput(asRoot({ image, entrypoint: firstCommand }), firstOutput, onOutput)
  await daemon.remove(started.sandbox.id)
  return started
}

/** As the others run it, and as the image says. */
function asRoot (input: Partial<SandboxCreate>): Partial<SandboxCreate> {
  return { ...input, user: 'root' }
}

async function pull (daemon: BerthDaemon, { reference }: ImageSource): Promise<void> {
  const { state } = await daemon.request<{ state: string }>('POST', '/v1/images/pull', 200, { reference, mode: 'eager' })
  mustBe('the state of a pulled image', state, 'complete')
}

function stepMs (sandbox: Sandbox, step: string): number {
  return sandbox.timings.find(timing => timing.step === step)?.durationMs ?? NaN
}

/** As after a restart of the host: the layers are whole, and mounted nowhere. */
async function restartUnmounted (daemon: BerthDaemon): Promise<void> {
  await daemon.end()
  const mounts = join(daemon.runDir, 'layers')
  for (const name of await readdir(mounts)) await unmount(join(mounts, name))
  await daemon.start()
}

async function withDaemon (
  { dir, stack }: Pick<ImageBerthOptions, 'dir' | 'stack'>,
  settings: Readonly<Record<string, string>>,
  work: (daemon: BerthDaemon) => Promise<void>
): Promise<void> {
  const daemon = new BerthDaemon(dir, settings)
  try {
    await daemon.start()
    await settleDisk()
    await work(daemon)
  } finally {
    await daemon.close().catch((error: unknown) => {
      stack.defer(`the daemon in ${dir}`, () => daemon.close())
      throw error
    })
  }
  // Not reached when something could not be reclaimed: it is found again by what lies in the directories.
  await rm(dir, { recursive: true, force: true })
}

/** What others have written is written before a time begins, so that nobody pays for it. */
export async function settleDisk (): Promise<void> {
  await mustRun('sync', [], { timeout: 0 })
}

/** Empties the page cache (proc(5), drop_caches): the next read comes from the disk. */
async function dropCaches (): Promise<void> {
  await settleDisk()
  await writeFile('/proc/sys/vm/drop_caches', '3')
}
