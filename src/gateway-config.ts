/** Settings of a gateway: flags and BERTH_* variables in, one frozen GatewayConfig out, every problem reported at once. */
import { resolve } from 'node:path'
import { logLevels, parseChoice, parseInteger, parseListen, type Environment, type RawFlags } from './config.ts'
import { BerthError } from './errors.ts'
import { parseRedisPrefix } from './services/fleet/fleet-settings.ts'
import { parseLeasedPool } from './services/network/network-settings.ts'
import { parseRedisUrl } from './services/redis/redis-settings.ts'
import type { LabelLimit } from './services/tasks/task-queue.ts'
import { parseLabelLimits, parseLabelName } from './services/tasks/task-settings.ts'

export interface GatewayConfig {
  /** As RedisSettings says. */
  redis: string
  redisPrefix: string
  /** A password, and PEM files; each empty: none. */
  redisPasswordFile: string
  redisCaFile: string
  redisCertFile: string
  redisKeyFile: string
  /** Where REST listens, and where gRPC. */
  listen: { host: string, port: number }
  grpcListen: { host: string, port: number }
  /** Holds the admin token, the same for all gateways of a fleet. */
  tokenFile: string
  /** PEM: a certificate for REST and gRPC with its key, and authorities of which clients of gRPC need one; each empty: none. */
  tlsCertFile: string
  tlsKeyFile: string
  tlsClientCaFile: string
  /** The network that sandboxes of the fleet get their addresses from; empty: they get none here. */
  ipv4Pool: string
  /** Requests per second and token; 0 is no limit. */
  rateLimit: number
  /** As of the local queue. */
  taskFairLabel: string
  taskLabelLimits: readonly LabelLimit[]
  taskRetentionMs: number
  logLevel: string
  /** How long a gateway that was asked to end waits for requests and calls under way, in milliseconds. */
  shutdownGraceMs: number
}

interface Setting<T> {
  flag?: string
  variable: string
  fallback: () => T
  /** Throws an Error with what is wrong. */
  parse: (text: string) => T
}

const path = (text: string): string => resolve(text)
const none = (): string => ''

const settings: { readonly [Key in keyof GatewayConfig]: Setting<GatewayConfig[Key]> } = {
  redis: { flag: 'redis', variable: 'BERTH_REDIS', fallback: () => 'redis://127.0.0.1:6379', parse: parseRedis },
  redisPrefix: { variable: 'BERTH_REDIS_PREFIX', fallback: () => 'airstore', parse: parseRedisPrefix },
  redisPasswordFile: { variable: 'BERTH_REDIS_PASSWORD_FILE', fallback: none, parse: path },
  redisCaFile: { variable: 'BERTH_REDIS_CA_FILE', fallback: none, parse: path },
  redisCertFile: { variable: 'BERTH_REDIS_CERT_FILE', fallback: none, parse: path },
  redisKeyFile: { variable: 'BERTH_REDIS_KEY_FILE', fallback: none, parse: path },
  listen: { flag: 'listen', variable: 'BERTH_GATEWAY_LISTEN', fallback: () => ({ host: '127.0.0.1', port: 7080 }), parse: parseListen },
  grpcListen: { flag: 'grpc', variable: 'BERTH_GATEWAY_GRPC_LISTEN', fallback: () => ({ host: '127.0.0.1', port: 7081 }), parse: parseListen },
  tokenFile: { flag: 'tokenFile', variable: 'BERTH_GATEWAY_ADMIN_TOKEN_FILE', fallback: () => '/var/lib/berth/gateway.token', parse: path },
  tlsCertFile: { variable: 'BERTH_GATEWAY_TLS_CERT_FILE', fallback: none, parse: path },
  tlsKeyFile: { variable: 'BERTH_GATEWAY_TLS_KEY_FILE', fallback: none, parse: path },
  tlsClientCaFile: { variable: 'BERTH_GATEWAY_TLS_CLIENT_CA_FILE', fallback: none, parse: path },
  ipv4Pool: { variable: 'BERTH_GATEWAY_IPV4_POOL', fallback: none, parse: parseLeasedPool },
  rateLimit: { variable: 'BERTH_GATEWAY_RATE_LIMIT', fallback: () => 10_000, parse: parseInteger(0, 1_000_000) },
  taskFairLabel: { variable: 'BERTH_TASK_FAIR_LABEL', fallback: () => 'tenant', parse: parseLabelName },
  taskLabelLimits: { variable: 'BERTH_TASK_LABEL_LIMITS', fallback: () => [], parse: parseLabelLimits },
  taskRetentionMs: { variable: 'BERTH_TASK_RETENTION_MS', fallback: () => 7 * 24 * 3600 * 1000, parse: parseInteger(0, 10 * 365 * 24 * 3600 * 1000) },
  logLevel: { variable: 'BERTH_LOG_LEVEL', fallback: () => 'info', parse: parseChoice(logLevels) },
  shutdownGraceMs: { variable: 'BERTH_SHUTDOWN_GRACE_MS', fallback: () => 10_000, parse: parseInteger(0, 600_000) },
}

/**
 * Reads the configuration of a gateway. A flag wins over its variable.
 *
 * @throws BerthError invalid_argument `invalid_config` whose message names every problem.
 */
export function readGatewayConfig (flags: RawFlags, environment: Environment): GatewayConfig {
  const config: Record<string, unknown> = {}
  const problems: string[] = []
  for (const [key, setting] of Object.entries(settings) as Array<[string, Setting<unknown>]>) {
    const flag = setting.flag === undefined ? undefined : flags[setting.flag]
    const raw = flag ?? environment[setting.variable]
    try {
      config[key] = raw === undefined || raw === '' ? setting.fallback() : setting.parse(String(raw))
    } catch (error) {
      problems.push(`${flag === undefined ? setting.variable : flagName(setting.flag ?? '')}: ${(error as Error).message}`)
    }
  }
  const { tlsCertFile, tlsKeyFile, tlsClientCaFile } = config as unknown as GatewayConfig
  if ((tlsCertFile === '') !== (tlsKeyFile === '')) problems.push('BERTH_GATEWAY_TLS_CERT_FILE and BERTH_GATEWAY_TLS_KEY_FILE belong together: set both, or neither')
  if (tlsClientCaFile !== '' && tlsCertFile === '') problems.push('BERTH_GATEWAY_TLS_CLIENT_CA_FILE needs BERTH_GATEWAY_TLS_CERT_FILE: without TLS no client shows a certificate')
  if (problems.length > 0) throw new BerthError('invalid_argument', 'invalid_config', problems.join('\n'))
  return Object.freeze(config) as unknown as GatewayConfig
}

function flagName (flag: string): string {
  return `--${flag.replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)}`
}

function parseRedis (text: string): string {
  parseRedisUrl(text)
  return text
}
