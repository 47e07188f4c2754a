import type { Logger } from 'pino'
import { findProgram } from '../../host/command.ts'
import { probeErofs } from '../../host/erofs.ts'
import { isFuseUsable } from '../../host/fuse-mount.ts'
import { LayerMounts } from './layer-mounts.ts'
import { LayeredImages } from './layered-images.ts'
import type { RegistrySettings } from './registry/registry-settings.ts'
import { registryToJson, type ServerEvent, type ServerSettings } from './server/control-protocol.ts'
import { ImageServerSupervisor } from './server/image-server-supervisor.ts'

export interface OpenLayersOptions {
  /** `auto` is the first of lazy, eager and unpack that this host can do. */
  mode: 'auto' | 'lazy' | 'eager' | 'unpack'
  layersDir: string
  mountsDir: string
  serverDir: string
  serverLogPath: string
  keeperPath: string
  serverPath: string
  settings: Omit<ServerSettings, 'layersDir' | 'isLazy' | 'registry'> & { registry: RegistrySettings }
  logger: Logger
  onEvent: (event: ServerEvent) => void
  /** The image server and its keeper died: what lies on directories of which this is true cannot be read any more. */
  onLost: (isLost: (lowerDir: string) => boolean) => Promise<void>
}

/** Images as layers, as far as this host can have them; undefined where images are unpacked. Nothing is started yet. */
export async function openLayers (options: OpenLayersOptions): Promise<LayeredImages | undefined> {
  const { mode, layersDir, mountsDir, settings, logger } = options
  if (mode === 'unpack') return undefined
  const erofs = findProgram('gztool') ? await probeErofs(layersDir) : { ok: false as const, why: 'gztool is not installed' }
  if (!erofs.ok) {
    logger.warn({ reason: erofs.why }, 'images are unpacked: this host cannot make or mount layers; run: berth doctor')
    return undefined
  }
  const isLazy = mode !== 'eager' && await isFuseUsable()
  if (!isLazy && mode !== 'eager') logger.warn('images are fetched whole before they are used: this host has no FUSE')
  const mounts = new LayerMounts({ dir: mountsDir })
  const supervisor = new ImageServerSupervisor({
    dir: options.serverDir,
    keeperPath: options.keeperPath,
    command: [process.execPath, '--disable-warning=ExperimentalWarning', options.serverPath],
    logPath: options.serverLogPath,
    settings: { ...settings, layersDir, isLazy, registry: registryToJson(settings.registry) },
    logger,
    onEvent: event => {
      if (event.type === 'completed') layers.markComplete(event.digest)
      options.onEvent(event)
    },
    onLost: async generation => {
      layers.markLost()
      await options.onLost(lowerDir => mounts.isOfGeneration(lowerDir, generation))
      await mounts.unmountGeneration(generation)
    },
  })
  const layers = new LayeredImages({ supervisor, mounts, layersDir, logger })
  return layers
}
