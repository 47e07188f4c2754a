/**
 * What daemon and image server say to each other: HTTP over a unix socket that only root can reach, JSON bodies, and JSON lines where
 * an answer comes in parts.
 *
 *     GET  /status                         → ServerStatus
 *     PUT  /settings    ServerSettings     → {}
 *     POST /layers      PrepareRequest     → lines of PrepareAnswer; the last one is `prepared` or `error`
 *     GET  /layers                         → LayerProgress[]
 *     POST /forget      { digests }        → {}
 *     POST /boots       BootRequest        → {}
 *     GET  /events      ?after=<seq>       → lines of ServerEvent, without end
 */
import type { ErrorFacts } from '../../../lib/error-facts.ts'
import type { IndexSettings } from '../indexes/index-settings.ts'
import type { RegistrySettings } from '../registry/registry-settings.ts'
import type { BlobSource, LayerDescriptor, LayerProgress, PullMode, RegistryCredentials } from '../layers/image-layer.ts'

/** RegistrySettings as JSON. */
type RegistrySettingsJson = Omit<RegistrySettings, 'mirrors'> & { mirrors: Array<[registry: string, mirrors: readonly string[]]> }

/** What a server works by; no secret is among it. */
export interface ServerSettings {
  layersDir: string
  registry: RegistrySettingsJson
  /** Where indexes of layers are kept and shared; the server itself reads the files that they name. */
  indexes: IndexSettings
  /** Whether layers may be served while they are incomplete. */
  isLazy: boolean
  /** How long a read waits for content, in milliseconds. */
  readTimeoutMs: number
  /** How long after the last start of a sandbox the rest of a layer is fetched, in milliseconds. */
  fillDelayMs: number
  logLevel: string
}

export interface PrepareRequest {
  layer: LayerDescriptor
  /** Tried in this order. */
  sources: BlobSource[]
  credentials?: RegistryCredentials
  mode: PullMode
}

/** What to mount: the metadata image, and the file that holds the data. */
export interface PreparedLayer {
  digest: string
  metaPath: string
  /** The layer's tar: the plain file when it is complete, else the file that the server serves. */
  devicePath: string
  /** Whether the server is not needed to read it. */
  isLocal: boolean
}

export type PrepareAnswer =
  | { progress: LayerProgress }
  | { prepared: PreparedLayer }
  | { error: ErrorFacts }

/** A sandbox of this image is about to start: what it reads first is recorded, or fetched ahead when it is known. */
export interface BootRequest {
  imageDigest: string
  /** Of its layers. */
  digests: string[]
}

/**
 * `stalled`: reads of a layer fail because its source does not answer; `recovered`: they succeed again; `completed`: all of it is here;
 * `damaged`: what came is not what the image promises.
 */
export type ServerEventType = 'stalled' | 'recovered' | 'completed' | 'damaged'

export interface ServerEvent {
  /** Grows by one with each event of one server process. */
  seq: number
  at: string
  type: ServerEventType
  digest: string
  message?: string
}

export interface ServerStatus {
  /** Another one after each restart. */
  pid: number
}

export function registryToJson (settings: RegistrySettings): RegistrySettingsJson {
  return { ...settings, mirrors: [...settings.mirrors] }
}

export function registryFromJson (settings: RegistrySettingsJson): RegistrySettings {
  return Object.freeze({ ...settings, mirrors: new Map(settings.mirrors) })
}
