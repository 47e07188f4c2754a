/** Images as the configuration wants them: layers and their server where this host can have them, registries, indexes, budgets. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import type { NewEvent } from '../services/events/event-log.ts'
import { ImageManager } from '../services/images/image-manager.ts'
import type { IndexSettings } from '../services/images/indexes/index-settings.ts'
import { checkIndexSettings } from '../services/images/indexes/open-layer-indexes.ts'
import { openLayers } from '../services/images/open-layers.ts'
import { defaultRegistrySettings, type RegistrySettings } from '../services/images/registry/registry-settings.ts'
import type { HostPlaces } from '../services/sandboxes/sandbox-places.ts'

export interface ImageWiring {
  config: Config
  places: HostPlaces
  programs: { busybox: string }
  logger: Logger
  news: { append: (event: NewEvent) => void }
  /** Ends the sandboxes on directories that can no longer be read; answers their ids. */
  endThoseOn: (isLost: (lowerDir: string) => boolean) => Promise<string[]>
}

const imageKeeperPath = fileURLToPath(new URL('../../libexec/image-keeper', import.meta.url))
const imageServerPath = fileURLToPath(new URL('../image-server.ts', import.meta.url))

export async function wireImages ({ config, places, programs, logger, news, endThoseOn }: ImageWiring): Promise<ImageManager> {
  const registry = registrySettings(config)
  const indexes: IndexSettings = {
    dir: join(places.imagesDir, 'indexes'),
    store: config.imageIndexStore,
    keyFile: config.imageIndexKeyFile,
    credentialsFile: config.imageIndexCredentialsFile,
  }
  await checkIndexSettings(indexes)
  const layers = await openLayers({
    mode: config.imageMode,
    layersDir: places.layersDir,
    mountsDir: places.layerMountsDir,
    serverDir: places.imageServerDir,
    serverLogPath: places.imageServerLogPath,
    keeperPath: imageKeeperPath,
    serverPath: imageServerPath,
    settings: { registry, indexes, readTimeoutMs: config.imageReadTimeoutMs, fillDelayMs: config.imageFillDelayMs, logLevel: config.logLevel },
    logger,
    onEvent: event => { images.hear(event).catch((error: unknown) => logger.error({ err: error, event }, 'an event of the image server could not be passed on')) },
    onLost: async isLost => news.append({ type: 'image.lost', data: { sandboxIds: await endThoseOn(isLost) } }),
  })
  const images = new ImageManager({
    imagesDir: places.imagesDir,
    busyboxPath: programs.busybox,
    logger,
    dirRoots: config.imageDirRoots,
    privateDirs: [config.stateDir, config.runDir],
    registry,
    ...(layers ? { layers } : {}),
    ...(config.imageDiskBytes > 0 ? { diskBytes: config.imageDiskBytes } : {}),
    ...(config.imageMaxUnusedMs > 0 ? { maxUnusedMs: config.imageMaxUnusedMs } : {}),
    onEvent: (type, data) => news.append({ type, data }),
  })
  return images
}

function registrySettings (config: Config): RegistrySettings {
  return {
    ...defaultRegistrySettings,
    mirrors: config.registryMirrors,
    insecure: config.insecureRegistries,
    authFiles: [config.registryAuthFile],
    ...(config.registryCaFile === '' ? {} : { caFile: config.registryCaFile }),
  }
}
