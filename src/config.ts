/** One schema of settings: flags and BERTH_* variables in, one frozen Config out, every problem reported at once. */
import { isAbsolute, join, resolve } from 'node:path'
import { BerthError } from './errors.ts'
import { parseIndexStore, problemOfIndexSettings } from './services/images/indexes/index-settings.ts'
import type { Egress } from './schemas/network.ts'
import {
  defaultPools, parseAddress, parseDomain, parseEgressSetting, parseGateway, parseLeasedPool, parsePool4, parsePool6, parseResolvers, problemOfAddressSettings,
} from './services/network/network-settings.ts'
import type { OutputSpec } from './schemas/output.ts'
import { parseOutputs } from './services/outputs/output-settings.ts'
import { parseAdvertise, parsePool, parseRedisPrefix, parseWorkerLabels, problemOfFleetSettings } from './services/fleet/fleet-settings.ts'
import { parseRedisUrl } from './services/redis/redis-settings.ts'
import type { LabelLimit } from './services/tasks/task-queue.ts'
import { parseLabelLimits, parseLabelName, parseOvercommit, parseTaskPools } from './services/tasks/task-settings.ts'
import { defaultRegistrySettings, parseInsecure, parseMirrors } from './services/images/registry/registry-settings.ts'

export interface Config {
  stateDir: string
  runDir: string
  listen: { host: string, port: number }
  socketPath: string
  /** PEM files of the API's certificate and its key, and of the authorities that clients must have theirs from; empty: none. */
  tlsCertFile: string
  tlsKeyFile: string
  tlsClientCaFile: string
  /** End every sandbox when the daemon ends. */
  stopSandboxes: boolean
  /** End and remove everything that belongs to these directories, then exit. */
  reclaimAndExit: boolean
  logLevel: string
  /** The OCI runtime of sandboxes that name none. */
  runtime: string
  /** How long a daemon that was asked to end waits for requests under way, in milliseconds. */
  shutdownGraceMs: number
  /** With stopSandboxes: how long tasks under way may go on before they are given back, in milliseconds. */
  shutdownTimeoutMs: number
  /** A log file is rotated beyond this size, in bytes. */
  maxLogBytes: number
  /** All files of one log together: beyond this the oldest are removed, in bytes. */
  logKeepBytes: number
  /** All logs of this host together, in bytes; 0 is no limit. */
  logDiskBytes: number
  /** A follower that takes nothing for this long is cut off, in milliseconds. */
  followerStallMs: number
  /** How much output of each terminal is kept at least, in bytes. */
  terminalWindowBytes: number
  /** How long the record of a deleted sandbox stays readable, in milliseconds. */
  deletedRetentionMs: number
  /** How many sandboxes and execs are set up at the same time; the rest wait their turn. */
  maxConcurrentStarts: number
  /** Images from this host's directories and archives must lie below one of these. */
  imageDirRoots: readonly string[]
  /** How images are kept: as layers that are fetched while they are read or before they are used, or unpacked. */
  imageMode: ImageMode
  /** Images that no sandbox uses are removed while all take more than this, in bytes; 0 is no limit. */
  imageDiskBytes: number
  /** Images that no sandbox has used for this long are removed, in milliseconds; 0 is never. */
  imageMaxUnusedMs: number
  /** How long a read waits for content that a registry does not deliver before it fails, in milliseconds. */
  imageReadTimeoutMs: number
  /** How long after its last sandbox's start the rest of an incomplete image is fetched, in milliseconds. */
  imageFillDelayMs: number
  /** Where indexes of layers are shared: `registry`, an `s3://` URL, or empty for nowhere. */
  imageIndexStore: string
  /** The key by which hosts believe each other's indexes; empty: none. */
  imageIndexKeyFile: string
  /** Credentials for an S3 store, in the format of AWS's shared credentials file; empty: none. */
  imageIndexCredentialsFile: string
  /** Registry credentials in Docker's config.json format; it need not be there. */
  registryAuthFile: string
  /** Registry → places that are asked before it. */
  registryMirrors: ReadonlyMap<string, readonly string[]>
  /** Registries that may be reached without TLS that verifies. */
  insecureRegistries: readonly string[]
  /** PEM file of authorities that are trusted beside the system's; empty: none. */
  registryCaFile: string
  /** What sandboxes that do not say may reach. */
  networkEgress: Egress
  /** How many network namespaces are kept ready. */
  networkPoolSize: number
  /** Networks that the addresses of sandboxes are taken from. */
  networkIpv4Pool: string
  networkIpv6Pool: string
  /** Who gives sandboxes their IPv4 addresses: this host, or its gateway. */
  networkAddresses: 'local' | 'gateway'
  /** HOST:PORT of the gateway's gRPC service; empty: none. */
  gateway: string
  /** Holds the token by which the gateway knows this host; empty: none. */
  gatewayTokenFile: string
  /** PEM file of the authorities that may have signed the gateway's certificate; empty: plain text. */
  gatewayCaFile: string
  /** PEM files: the certificate that this host shows to the gateway, and its key; empty: none. */
  gatewayCertFile: string
  gatewayKeyFile: string
  /** The network that the gateway gives addresses from; empty: none. */
  gatewayIpv4Pool: string
  /** Name servers that sandboxes' questions go to; none: the host's own. */
  networkResolvers: readonly string[]
  /** Address of the host where published ports are. */
  publishAddress: string
  /** Below this domain every port of a sandbox has a host name of its own; empty: none. */
  previewDomain: string
  /** Set what the host must have set so that sandboxes reach anything outside. */
  configureHost: boolean
  /** Pools that this host takes tasks of. */
  taskPools: readonly string[]
  /** How many times over processors may be requested by tasks. */
  taskCpuOvercommit: number
  /** Memory that tasks leave to everything else, in bytes; 0 is what is sensible for this host. */
  taskReservedMemoryBytes: number
  /** The label between whose values tasks take turns. */
  taskFairLabel: string
  /** How many tasks with a label may run at once. */
  taskLabelLimits: readonly LabelLimit[]
  /** How long a claim of a task holds unless it is renewed, in milliseconds. */
  taskLeaseMs: number
  /** How long an ended task is kept, in milliseconds, and how many are. */
  taskRetentionMs: number
  taskRetentionCount: number
  /** Where output goes of tasks that do not say. */
  taskOutputs: readonly OutputSpec[]
  /** Where outputs of the type file lie. */
  outputDir: string
  /** The S2 service for outputs of the type s2: where it is (empty: s2.dev), the basin, and the file with the access token. */
  s2Endpoint: string
  s2Basin: string
  s2AccessTokenFile: string
  /** The Redis of the fleet, as RedisSettings says; empty: none. */
  redis: string
  redisPrefix: string
  /** PEM files and password of the Redis, each empty: none. */
  redisPasswordFile: string
  redisCaFile: string
  redisCertFile: string
  redisKeyFile: string
  /** The pool of the fleet that this host serves. */
  pool: string
  /** Where the gateway reaches this API; empty: nowhere. */
  advertise: string
  /** PEM file of the authorities of that address; empty: the usual ones. */
  advertiseCaFile: string
  /** What placement may ask of a host. */
  workerLabels: ReadonlyMap<string, string>
}

const imageModes = ['auto', 'lazy', 'eager', 'unpack'] as const
/** `auto` is the best that this host can do. */
export type ImageMode = typeof imageModes[number]

/** A flag's value as commander gives it. */
export type RawFlags = Readonly<Record<string, string | boolean | undefined>>
export type Environment = Readonly<Record<string, string | undefined>>

interface Setting<T> {
  flag?: string
  variable: string
  fallback: (soFar: Partial<Config>, environment: Environment) => T
  /** Throws an Error with what is wrong. */
  parse: (text: string) => T
}

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

const settings: { readonly [Key in keyof Config]: Setting<Config[Key]> } = {
  stateDir: { flag: 'stateDir', variable: 'BERTH_STATE_DIR', fallback: () => '/var/lib/berth', parse: parseDirectory },
  runDir: { flag: 'runDir', variable: 'BERTH_RUN_DIR', fallback: () => '/run/berth', parse: parseDirectory },
  listen: { flag: 'listen', variable: 'BERTH_LISTEN', fallback: () => ({ host: '127.0.0.1', port: 7070 }), parse: parseListen },
  socketPath: { flag: 'socket', variable: 'BERTH_SOCKET', fallback: soFar => join(soFar.runDir ?? '/run/berth', 'berth.sock'), parse: parseSocket },
  tlsCertFile: { variable: 'BERTH_TLS_CERT_FILE', fallback: () => '', parse: text => resolve(text) },
  tlsKeyFile: { variable: 'BERTH_TLS_KEY_FILE', fallback: () => '', parse: text => resolve(text) },
  tlsClientCaFile: { variable: 'BERTH_TLS_CLIENT_CA_FILE', fallback: () => '', parse: text => resolve(text) },
  stopSandboxes: { flag: 'stopSandboxes', variable: 'BERTH_STOP_SANDBOXES', fallback: () => false, parse: parseBoolean },
  reclaimAndExit: { flag: 'reclaimAndExit', variable: 'BERTH_RECLAIM_AND_EXIT', fallback: () => false, parse: parseBoolean },
  logLevel: { variable: 'BERTH_LOG_LEVEL', fallback: () => 'info', parse: parseChoice(logLevels) },
  runtime: { variable: 'BERTH_RUNTIME', fallback: () => 'runsc', parse: parseChoice(['runsc', 'runc']) },
  shutdownGraceMs: { variable: 'BERTH_SHUTDOWN_GRACE_MS', fallback: () => 10_000, parse: parseInteger(0, 600_000) },
  shutdownTimeoutMs: { variable: 'BERTH_SHUTDOWN_TIMEOUT_MS', fallback: () => 300_000, parse: parseInteger(0, 24 * 3600 * 1000) },
  maxLogBytes: { variable: 'BERTH_MAX_LOG_BYTES', fallback: () => 64 * 1024 ** 2, parse: parseInteger(64 * 1024, 1024 ** 4) },
  logKeepBytes: { variable: 'BERTH_LOG_KEEP_BYTES', fallback: () => 256 * 1024 ** 2, parse: parseInteger(128 * 1024, 16 * 1024 ** 4) },
  logDiskBytes: { variable: 'BERTH_LOG_DISK_BYTES', fallback: () => 16 * 1024 ** 3, parse: parseInteger(0, Number.MAX_SAFE_INTEGER) },
  followerStallMs: { variable: 'BERTH_FOLLOWER_STALL_MS', fallback: () => 60_000, parse: parseInteger(1000, 24 * 3600 * 1000) },
  terminalWindowBytes: { variable: 'BERTH_TERMINAL_WINDOW_BYTES', fallback: () => 8 * 1024 ** 2, parse: parseInteger(64 * 1024, 1024 ** 3) },
  deletedRetentionMs: { variable: 'BERTH_DELETED_RETENTION_MS', fallback: () => 24 * 3600 * 1000, parse: parseInteger(0, 365 * 24 * 3600 * 1000) },
  maxConcurrentStarts: { variable: 'BERTH_MAX_CONCURRENT_STARTS', fallback: () => 8, parse: parseInteger(1, 1024) },
  imageDirRoots: { variable: 'BERTH_IMAGE_DIR_ROOTS', fallback: () => ['/'], parse: text => text.split(':').filter(Boolean).map(parseDirectory) },
  imageMode: { variable: 'BERTH_IMAGE_MODE', fallback: () => 'auto', parse: parseChoice(imageModes) },
  imageDiskBytes: { variable: 'BERTH_IMAGE_DISK_BYTES', fallback: () => 0, parse: parseInteger(0, Number.MAX_SAFE_INTEGER) },
  imageMaxUnusedMs: { variable: 'BERTH_IMAGE_MAX_UNUSED_MS', fallback: () => 0, parse: parseInteger(0, 10 * 365 * 24 * 3600 * 1000) },
  imageReadTimeoutMs: { variable: 'BERTH_IMAGE_READ_TIMEOUT_MS', fallback: () => 30_000, parse: parseInteger(1000, 600_000) },
  imageFillDelayMs: { variable: 'BERTH_IMAGE_FILL_DELAY_MS', fallback: () => 10_000, parse: parseInteger(0, 24 * 3600 * 1000) },
  imageIndexStore: { variable: 'BERTH_IMAGE_INDEX_STORE', fallback: () => '', parse: checkedIndexStore },
  imageIndexKeyFile: { variable: 'BERTH_IMAGE_INDEX_KEY_FILE', fallback: () => '', parse: text => resolve(text) },
  imageIndexCredentialsFile: { variable: 'BERTH_IMAGE_INDEX_CREDENTIALS_FILE', fallback: () => '', parse: text => resolve(text) },
  registryAuthFile: { variable: 'BERTH_REGISTRY_AUTH_FILE', fallback: (_soFar, environment) => join(environment['HOME'] || '/root', '.docker/config.json'), parse: text => resolve(text) },
  registryMirrors: { variable: 'BERTH_REGISTRY_MIRRORS', fallback: () => defaultRegistrySettings.mirrors, parse: parseMirrors },
  insecureRegistries: { variable: 'BERTH_INSECURE_REGISTRIES', fallback: () => defaultRegistrySettings.insecure, parse: parseInsecure },
  registryCaFile: { variable: 'BERTH_REGISTRY_CA_FILE', fallback: () => '', parse: text => resolve(text) },
  networkEgress: { variable: 'BERTH_NETWORK_EGRESS', fallback: () => 'none', parse: parseEgressSetting },
  networkPoolSize: { variable: 'BERTH_NETWORK_POOL_SIZE', fallback: () => 8, parse: parseInteger(0, 256) },
  networkIpv4Pool: { variable: 'BERTH_NETWORK_IPV4_POOL', fallback: () => defaultPools.pool4, parse: parsePool4 },
  networkIpv6Pool: { variable: 'BERTH_NETWORK_IPV6_POOL', fallback: () => defaultPools.pool6, parse: parsePool6 },
  networkAddresses: { variable: 'BERTH_NETWORK_ADDRESSES', fallback: () => 'local', parse: parseChoice(['local', 'gateway'] as const) },
  gateway: { flag: 'gateway', variable: 'BERTH_GATEWAY', fallback: () => '', parse: parseGateway },
  gatewayTokenFile: { flag: 'gatewayTokenFile', variable: 'BERTH_GATEWAY_TOKEN_FILE', fallback: () => '', parse: text => resolve(text) },
  gatewayCaFile: { variable: 'BERTH_GATEWAY_CA_FILE', fallback: () => '', parse: text => resolve(text) },
  gatewayCertFile: { variable: 'BERTH_GATEWAY_CERT_FILE', fallback: () => '', parse: text => resolve(text) },
  gatewayKeyFile: { variable: 'BERTH_GATEWAY_KEY_FILE', fallback: () => '', parse: text => resolve(text) },
  gatewayIpv4Pool: { variable: 'BERTH_GATEWAY_IPV4_POOL', fallback: () => '', parse: parseLeasedPool },
  networkResolvers: { variable: 'BERTH_NETWORK_RESOLVERS', fallback: () => [], parse: parseResolvers },
  publishAddress: { variable: 'BERTH_PUBLISH_ADDRESS', fallback: () => '127.0.0.1', parse: parseAddress },
  previewDomain: { variable: 'BERTH_PREVIEW_DOMAIN', fallback: () => '', parse: parseDomain },
  configureHost: { flag: 'configureHost', variable: 'BERTH_CONFIGURE_HOST', fallback: () => false, parse: parseBoolean },
  taskPools: { variable: 'BERTH_TASK_POOLS', fallback: () => ['default'], parse: parseTaskPools },
  taskCpuOvercommit: { variable: 'BERTH_TASK_CPU_OVERCOMMIT', fallback: () => 4, parse: parseOvercommit },
  taskReservedMemoryBytes: { variable: 'BERTH_TASK_RESERVED_MEMORY_BYTES', fallback: () => 0, parse: parseInteger(0, Number.MAX_SAFE_INTEGER) },
  taskFairLabel: { variable: 'BERTH_TASK_FAIR_LABEL', fallback: () => 'tenant', parse: parseLabelName },
  taskLabelLimits: { variable: 'BERTH_TASK_LABEL_LIMITS', fallback: () => [], parse: parseLabelLimits },
  taskLeaseMs: { variable: 'BERTH_TASK_LEASE_MS', fallback: () => 30_000, parse: parseInteger(1000, 3_600_000) },
  taskRetentionMs: { variable: 'BERTH_TASK_RETENTION_MS', fallback: () => 7 * 24 * 3600 * 1000, parse: parseInteger(0, 10 * 365 * 24 * 3600 * 1000) },
  taskRetentionCount: { variable: 'BERTH_TASK_RETENTION_COUNT', fallback: () => 10_000, parse: parseInteger(0, 10_000_000) },
  taskOutputs: { variable: 'BERTH_TASK_OUTPUTS', fallback: () => [], parse: parseOutputs },
  outputDir: { variable: 'BERTH_OUTPUT_DIR', fallback: soFar => join(soFar.stateDir ?? '/var/lib/berth', 'outputs'), parse: text => resolve(text) },
  s2Endpoint: { variable: 'BERTH_S2_ENDPOINT', fallback: () => '', parse: parseHttpUrl },
  s2Basin: { variable: 'BERTH_S2_BASIN', fallback: () => '', parse: text => text },
  s2AccessTokenFile: { variable: 'BERTH_S2_ACCESS_TOKEN_FILE', fallback: () => '', parse: text => resolve(text) },
  redis: { flag: 'redis', variable: 'BERTH_REDIS', fallback: () => '', parse: checkedRedisUrl },
  redisPrefix: { variable: 'BERTH_REDIS_PREFIX', fallback: () => 'airstore', parse: parseRedisPrefix },
  redisPasswordFile: { variable: 'BERTH_REDIS_PASSWORD_FILE', fallback: () => '', parse: text => resolve(text) },
  redisCaFile: { variable: 'BERTH_REDIS_CA_FILE', fallback: () => '', parse: text => resolve(text) },
  redisCertFile: { variable: 'BERTH_REDIS_CERT_FILE', fallback: () => '', parse: text => resolve(text) },
  redisKeyFile: { variable: 'BERTH_REDIS_KEY_FILE', fallback: () => '', parse: text => resolve(text) },
  pool: { flag: 'pool', variable: 'BERTH_POOL', fallback: () => 'default', parse: parsePool },
  advertise: { flag: 'advertise', variable: 'BERTH_ADVERTISE', fallback: () => '', parse: parseAdvertise },
  advertiseCaFile: { variable: 'BERTH_ADVERTISE_CA_FILE', fallback: () => '', parse: text => resolve(text) },
  workerLabels: { variable: 'BERTH_WORKER_LABELS', fallback: () => new Map(), parse: parseWorkerLabels },
}

/**
 * Reads the configuration. A flag wins over its variable.
 *
 * @throws BerthError invalid_argument `invalid_config` whose message names every problem.
 */
export function readConfig (flags: RawFlags, environment: Environment): Config {
  const config: Record<string, unknown> = {}
  const problems: string[] = []
  for (const [key, setting] of Object.entries(settings) as Array<[string, Setting<unknown>]>) {
    const flag = setting.flag === undefined ? undefined : flags[setting.flag]
    const raw = flag ?? environment[setting.variable]
    try {
      config[key] = raw === undefined || raw === '' ? setting.fallback(config, environment) : setting.parse(String(raw))
    } catch (error) {
      const name = flag === undefined ? setting.variable : `--${(setting.flag ?? '').replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)}`
      problems.push(`${name}: ${(error as Error).message}`)
    }
  }
  if (config['stateDir'] !== undefined && config['stateDir'] === config['runDir']) problems.push('--state-dir and --run-dir must be two directories: one stays over a reboot, one does not')
  const indexProblem = problemOfIndexSettings({
    store: String(config.imageIndexStore ?? ''),
    keyFile: String(config.imageIndexKeyFile ?? ''),
    credentialsFile: String(config.imageIndexCredentialsFile ?? ''),
  })
  if (indexProblem !== undefined) problems.push(indexProblem)
  const addressProblem = problemOfAddressSettings({
    addresses: String(config.networkAddresses ?? ''),
    gateway: String(config.gateway ?? 'wrong'),
    tokenFile: String(config.gatewayTokenFile ?? 'wrong'),
    leasedPool4: String(config.gatewayIpv4Pool ?? 'wrong'),
    pool4: String(config.networkIpv4Pool ?? 'wrong'),
  })
  if (addressProblem !== undefined) problems.push(addressProblem)
  if ((config.tlsCertFile === '') !== (config.tlsKeyFile === '')) problems.push('BERTH_TLS_CERT_FILE and BERTH_TLS_KEY_FILE belong together: give both or neither')
  if (config.tlsClientCaFile !== '' && config.tlsCertFile === '') problems.push('BERTH_TLS_CLIENT_CA_FILE needs BERTH_TLS_CERT_FILE')
  const fleetProblem = problems.length > 0 ? undefined : problemOfFleetSettings(config as unknown as Config)
  if (fleetProblem !== undefined) problems.push(fleetProblem)
  if (problems.length > 0) throw new BerthError('invalid_argument', 'invalid_config', problems.join('\n'))
  return Object.freeze(config) as unknown as Config
}

function parseDirectory (text: string): string {
  if (!isAbsolute(text)) return parseDirectory(resolve(text))
  if (/[,:\\\0\n]/.test(text)) throw new Error('a directory may not have a comma, colon, backslash or line break in its path')
  if (resolve(text) === '/') return '/'
  return resolve(text)
}

// sun_path of unix(7) holds 108 bytes with the ending NUL.
const maxSocketPathBytes = 107

function parseSocket (text: string): string {
  const path = resolve(text)
  if (Buffer.byteLength(path) > maxSocketPathBytes) throw new Error(`the path of a unix socket has at most ${maxSocketPathBytes} bytes`)
  return path
}

export function parseListen (text: string): { host: string, port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text)
  const port = Number(match?.[3])
  const host = match?.[1] ?? match?.[2]
  if (!host || port > 65_535) throw new Error('give HOST:PORT, for example 127.0.0.1:7070 or [::1]:7070; port 0 takes a free one')
  return { host, port }
}

function checkedIndexStore (text: string): string {
  parseIndexStore(text)
  return text
}

function checkedRedisUrl (text: string): string {
  parseRedisUrl(text)
  return text
}

function parseHttpUrl (text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url && /^https?:$/.test(url.protocol) && url.username === '' && url.password === '') return text
  throw new Error('give an http:// or https:// URL without a user and password')
}

function parseBoolean (text: string): boolean {
  if (/^(1|true|yes|on)$/i.test(text)) return true
  if (/^(0|false|no|off)$/i.test(text)) return false
  throw new Error('give true or false')
}

export function parseChoice<T extends string> (choices: readonly T[]): (text: string) => T {
  return text => {
    const choice = choices.find(candidate => candidate === text)
    if (choice !== undefined) return choice
    throw new Error(`give one of ${choices.join(', ')}`)
  }
}

export function parseInteger (minimum: number, maximum: number): (text: string) => number {
  return text => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= minimum && value <= maximum) return value
    throw new Error(`give a whole number from ${minimum} to ${maximum}`)
  }
}
