/**
 * The image server's front door: `image-server.ts SETTINGS DIR START-NUMBER`, run by libexec/image-keeper.
 *
 * SETTINGS is a ServerSettings as JSON, DIR the generation's own directory (control socket, FUSE mount), START-NUMBER counts the servers
 * under this keeper. File descriptor 3 is /dev/fuse, 4 memory that outlives this process.
 */
import { mkdir, readlink } from 'node:fs/promises'
import { setPriority } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { pino, destination } from 'pino'
import { FuseFileServer } from './host/fuse-file-server.ts'
import { mountFuse, raiseReadAhead } from './host/fuse-mount.ts'
import { connectionGoneExitCode, startImageKeeper } from './host/image-keeper.ts'
import { openLayerIndexes } from './services/images/indexes/open-layer-indexes.ts'
import { LayerDirectory } from './services/images/layers/layer-directory.ts'
import { ControlServer } from './services/images/server/control-server.ts'
import { registryFromJson, type ServerSettings } from './services/images/server/control-protocol.ts'
import { LayerService } from './services/images/server/layer-service.ts'
import { LayerSources } from './services/images/server/layer-sources.ts'
import { ServerEvents } from './services/images/server/server-events.ts'
import { KeptMemory } from './services/images/server/kept-memory.ts'

const fuseFd = 3
const memoryFd = 4
// One request of the kernel covers a megabyte: fewer round trips for a stream.
const readAheadKib = 1024
const parentPollMs = 500
const niceness = 10

const [settingsText = '', dir = '', startText = ''] = process.argv.slice(2)
const memory = new KeptMemory({ fd: memoryFd })
const kept = memory.read()
let settings = kept?.settings ?? JSON.parse(settingsText) as ServerSettings
const startNumber = Number(startText)
process.umask(0o077)
// Threads inherit it. Whoever waits for a read leaves the cores to this process anyway; what is fetched ahead must not take them from a start.
setPriority(niceness)

const logger = pino({ level: settings.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ dest: 2, sync: true }))
const blobsDir = join(dir, 'blobs')
const events = new ServerEvents()
const sources = new LayerSources({ settings: registryFromJson(settings.registry), logger })
const fuse: FuseFileServer | undefined = settings.isLazy
  ? new FuseFileServer({ fd: fuseFd, onMissing: (name, start, end) => layers.fetchMissing(name, start, end), logger })
  : undefined
const indexes = await openLayerIndexes(settings.indexes, { connections: sources.connections, logger })
const layers: LayerService = new LayerService({
  indexes,
  directory: new LayerDirectory({ dir: settings.layersDir }),
  sources,
  events,
  logger,
  readTimeoutMs: settings.readTimeoutMs,
  fillDelayMs: settings.fillDelayMs,
  ...(fuse ? { fuse: { server: fuse, dir: blobsDir } } : {}),
  onLearnt: () => memory.write({ settings, credentials: layers.credentials() }),
})
await layers.open()
layers.restoreCredentials(kept?.credentials ?? {})

if (fuse) {
  // Where an earlier server has mounted it, its readers wait, and what it took and did not answer comes again. The mount must not be touched.
  if (!fuse.resend()) {
    await mkdir(blobsDir, { recursive: true })
    mountFuse(fuseFd, blobsDir)
  }
  fuse.start()
  await raiseReadAhead(blobsDir, readAheadKib)
}

const control = new ControlServer({
  socketPath: join(dir, 'control.sock'),
  logger,
  target: {
    status: () => ({ pid: process.pid }),
    setSettings: wanted => {
      settings = wanted
      sources.setSettings(registryFromJson(wanted.registry))
      memory.write({ settings, credentials: layers.credentials() })
    },
    prepare: (request, onProgress) => layers.prepare(request, onProgress),
    layers: () => layers.layers(),
    forget: digests => layers.forget(digests),
    boot: request => layers.boot(request),
    events: (after, signal) => events.read(after, signal),
  },
})
await control.listen()
logger.info({ startNumber, layers: layers.layers().length, isLazy: fuse !== undefined }, 'the image server is ready')

process.on('SIGTERM', () => {
  control.close()
  void layers.close().then(() => indexes.close()).finally(() => process.exit(0))
})
watchParent(handOver)

/** The keeper is gone: without one the next death of a server would be the last. So another keeper is started on the same descriptors, with a server of its own. */
async function handOver (): Promise<void> {
  logger.error('the keeper of the image server is gone; another one takes over')
  control.close()
  await fuse?.close()
  await layers.close()
  await startImageKeeper({
    keeperPath: fileURLToPath(new URL('../libexec/image-keeper', import.meta.url)),
    dir,
    command: [process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), settingsText, dir],
    logPath: await readlink('/proc/self/fd/2'),
    inheritedFds: memory.isThere ? [fuseFd, memoryFd] : [fuseFd],
  })
  process.exit(0)
}

/** Calls back when the process that started this one has ended. */
function watchParent (onGone: () => Promise<void>): void {
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    onGone().catch((error: unknown) => {
      logger.fatal({ err: error }, 'no other keeper could be started')
      process.exit(1)
    })
  }, parentPollMs).unref()
}

if (fuse) {
  const end = await fuse.ended.catch((error: unknown) => {
    logger.fatal({ err: error }, 'the FUSE mount is served no more')
    process.exit(1)
  })
  if (end === 'unmounted') process.exit(connectionGoneExitCode)
}
