/** Ours with a large image: pulled whole, started from whole, started from nothing, read. Each round has daemons with directories of their own. */
import { access, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { unmount } from '../src/host/mount.ts'
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
  /** Of the image. */
  digest: string
  /** A userland with the same large file. */
  plainDir: string
  samples: ImageSamples
  /** What came through the slower network. */
  readTraffic: () => Traffic
  signal: AbortSignal
}

/** How often in one round what takes a second or two is measured. */
const repeats = 3
const sharedWithinMs = 20_000
// A start is recorded for ten seconds.
const profileWithinMs = 15_000

/** A daemon whose images are nobody else's: whole first, then from nothing but the indexes that were made with it. */
export async function measureWhole (source: ImageSource, options: ImageBerthOptions): Promise<void> {
  await withDaemon(options.dir, {}, daemon => measureWholeOn(daemon, source, options))
}

/** Daemons that know nothing of the image but where its indexes are shared. */
export async function measureShared (source: ImageSource, settings: Readonly<Record<string, string>>, options: ImageBerthOptions): Promise<void> {
  for (let i = 0; i < repeats; i++) {
    await withDaemon(join(options.dir, String(i)), settings, async daemon => {
      await startCold(daemon, source, 'cold, index in the registry', options)
    })
  }
}

/** Has the indexes made and shared; answers whether `isShared` came to say so. */
export async function shareIndexes (source: ImageSource, settings: Readonly<Record<string, string>>, options: { dir: string, isShared: () => Promise<boolean> }): Promise<boolean> {
  let areShared = false
  await withDaemon(options.dir, settings, async daemon => {
    await pull(daemon, source)
    const until = Date.now() + sharedWithinMs
    while (!(areShared = await options.isShared()) && Date.now() < until) await delay(100)
  })
  return areShared
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
  // The programs that every start needs are in memory again.
  await daemon.runEcho()
  await startCold(daemon, source, measure, options)
}

/** Whether a profile of the image's first start came to be. */
async function hasProfile (daemon: BerthDaemon, digest: string): Promise<boolean> {
  const path = join(daemon.stateDir, 'images/indexes', digest.replace('sha256:', 'profile-'))
  const until = Date.now() + profileWithinMs
  while (!await access(path).then(() => true, () => false)) {
    if (Date.now() > until) return false
    await delay(100)
  }
  return true
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
      await readMBs(daemon, id)
      samples.add('wan', repeated, await readMBs(daemon, id))
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

async function withDaemon (dir: string, settings: Readonly<Record<string, string>>, work: (daemon: BerthDaemon) => Promise<void>): Promise<void> {
  const daemon = new BerthDaemon(dir, settings)
  let isClosed = false
  try {
    await daemon.start()
    await settleDisk()
    await work(daemon)
  } finally {
    // What could not be reclaimed is kept, to be found by what lies in its directories.
    await daemon.close()
    isClosed = true
  }
  if (isClosed) await rm(dir, { recursive: true, force: true })
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
