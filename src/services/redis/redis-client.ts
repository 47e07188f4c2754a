/** Connections as the library makes them, set so that they keep the promises of redis-types.ts. */
import { Cluster, Redis, type ClusterOptions, type RedisOptions } from 'ioredis'
import { keepSubscriptions } from './lasting-subscriptions.ts'
import type { RedisFiles } from './redis-files.ts'
import type { RedisAddress, RedisNode } from './redis-settings.ts'
import type { RedisClient } from './redis-types.ts'
import { watchSilence } from './silence-watch.ts'

/** ordinary: bounded in time, fails at once while there is no connection. The others wait for one. */
export type ClientPurpose = 'ordinary' | 'blocking' | 'subscriber'

export interface ClientRecipe {
  address: RedisAddress
  files: RedisFiles
  purpose: ClientPurpose
  callTimeoutMs: number
  /** The nodes of a cluster that are known at the moment. */
  nodes: () => RedisNode[]
}

/** What the library keeps of a connection; its types do not tell. */
interface Inner {
  status: string
  manuallyClosing?: boolean
  stream?: { destroy: () => void }
  prevCommandQueue?: { shift: () => { command: { reject: (error: Error) => void } } | undefined }
  flushQueue: (error: Error) => void
  setStatus: (status: string) => void
}

/** Nothing that blocks may be asked to wait for longer than this, ms. */
export const longestBlockMs = 10_000

const longestPauseMs = 2000
const keepAliveMs = 5000
const endWithinMs = 300
/** All sentinels were asked in vain; asking costs them little, and closing waits for as long. */
const sentinelPauseMs = 500

/** Full jitter, so that a fleet whose Redis comes back does not come all at once; never 0, so that nothing spins. */
export function reconnectPause (attempt: number): number {
  return 10 + Math.random() * Math.min(longestPauseMs - 10, 50 * 2 ** Math.min(attempt, 10))
}

/** Begins to connect at once, and goes on for ever. */
export function makeClient (recipe: ClientRecipe): RedisClient {
  const { address, purpose } = recipe
  if (address.kind !== 'cluster') return makeSingle(recipe)
  // Whichever node is asked tells what is published anywhere in the cluster.
  return purpose === 'subscriber' ? makeSingle(recipe) : makeCluster(recipe, address.nodes)
}

/** Ends a connection, and fails what waits for it. */
export async function endClient (client: RedisClient): Promise<void> {
  const inner = client as unknown as Inner
  const { promise, resolve } = Promise.withResolvers<void>()
  // One that waits to connect again has nothing that could end.
  const isOpen = ['connecting', 'connect', 'ready'].includes(client.status)
  client.once('end', resolve)
  client.disconnect()
  const timer = setTimeout(resolve, isOpen ? endWithinMs : 0)
  await promise
  clearTimeout(timer)
  inner.stream?.destroy()
  inner.flushQueue(new Error('Connection is closed.'))
  if (client.status !== 'end') inner.setStatus('end')
}

function makeSingle (recipe: ClientRecipe): Redis {
  const { address, purpose, callTimeoutMs } = recipe
  let attempts = 0
  const client: Redis = new Redis({
    ...commonOptions(recipe),
    ...placeOptions(recipe),
    db: address.db,
    retryStrategy: attempt => {
      const nodes = address.kind === 'cluster' ? [...recipe.nodes(), ...address.nodes] : []
      if (nodes.length > 0) Object.assign(client.options, nodes[++attempts % nodes.length])
      return reconnectPause(attempt)
    },
    lazyConnect: true,
  })
  readAnew(client.options, recipe)
  guard(client, purpose)
  watchSilence(client, { limitMs: silenceLimit(purpose, callTimeoutMs), ping: purpose === 'subscriber' })
  if (address.kind === 'sentinel') shareWithSentinels(client, recipe)
  client.connect().catch(() => undefined)
  return client
}

function placeOptions ({ address, files, callTimeoutMs }: ClientRecipe): RedisOptions {
  const tls = address.isTls ? { tls: files.tls() } : {}
  switch (address.kind) {
    case 'single': return { ...address.node, ...tls }
    case 'unix': return { path: address.path }
    case 'cluster': return { ...address.nodes[0], ...tls }
    case 'sentinel': return {
      sentinels: address.nodes,
      name: address.master,
      ...tls,
      ...address.isTls && { enableTLSForSentinelMode: true, sentinelTLS: files.tls() },
      sentinelRetryStrategy: attempt => Math.min(reconnectPause(attempt), sentinelPauseMs),
      sentinelCommandTimeout: callTimeoutMs,
    }
  }
}

function makeCluster (recipe: ClientRecipe, nodes: { host: string, port: number }[]): Cluster {
  const { purpose, callTimeoutMs } = recipe
  const redisOptions: RedisOptions = { ...commonOptions(recipe), ...recipe.address.isTls && { tls: recipe.files.tls() } }
  // Each node is connected with what these say at that time.
  readAnew(redisOptions, recipe)
  const options: ClusterOptions = {
    redisOptions,
    clusterRetryStrategy: reconnectPause,
    enableOfflineQueue: purpose !== 'ordinary',
    // What was sent may have been carried out: it is not sent once more.
    retryDelayOnFailover: 0,
    slotsRefreshTimeout: callTimeoutMs,
    slotsRefreshInterval: 30_000,
    // Certificates are for names.
    dnsLookup: (host, answer) => { answer(null, host) },
    lazyConnect: true,
  }
  const cluster = new Cluster(nodes, options)
  cluster.on('+node', (node: Redis) => {
    watchSilence(node, { limitMs: silenceLimit(purpose, callTimeoutMs), ping: false })
  })
  cluster.connect().catch(() => undefined)
  return cluster
}

function commonOptions ({ address, purpose, callTimeoutMs }: ClientRecipe): RedisOptions {
  return {
    ...address.username === undefined ? {} : { username: address.username },
    connectionName: `berth-${purpose}`,
    connectTimeout: callTimeoutMs,
    disconnectTimeout: 200,
    keepAlive: keepAliveMs,
    maxRetriesPerRequest: null,
    autoResubscribe: false,
    maxLoadingRetryTime: 500,
    enableOfflineQueue: purpose !== 'ordinary',
    ...purpose === 'ordinary' && { commandTimeout: callTimeoutMs },
    // Of a server that has stopped serving a new connection may lead to one that does, and waits for one that loads.
    reconnectOnError: ({ message }) => /^(LOADING|READONLY|MASTERDOWN|UNBLOCKED)/.test(message),
  }
}

function silenceLimit (purpose: ClientPurpose, callTimeoutMs: number): number {
  return purpose === 'blocking' ? longestBlockMs + callTimeoutMs : callTimeoutMs
}

/** The password is read again whenever a connection is begun. */
function readAnew (options: RedisOptions, { address, files }: ClientRecipe): void {
  Object.defineProperty(options, 'password', { enumerable: true, configurable: true, get: () => files.password ?? address.password ?? null })
}

/** Sentinels that want a password are given that of the master. */
function shareWithSentinels (client: Redis, { address, files }: ClientRecipe): void {
  client.on('sentinelError', (error: Error) => {
    if (!/NOAUTH/.test(error.message)) return
    Object.assign(client.options, { sentinelUsername: address.username })
    Object.defineProperty(client.options, 'sentinelPassword', { enumerable: true, configurable: true, get: () => files.password ?? address.password })
  })
}

/**
 * What was sent and not answered fails when the connection is lost, as it may have been carried out. And one that could not even
 * begin to connect, for want of a certificate that makes sense, tries again like all others.
 */
function guard (client: Redis, purpose: ClientPurpose): void {
  const inner = client as unknown as Inner
  client.on('end', () => {
    if (inner.manuallyClosing === true || hasClosed) return
    setTimeout(() => { if (client.status === 'end') client.connect().catch(() => undefined) }, longestPauseMs).unref()
  })
  let hasClosed = false
  client.on('connecting', () => { hasClosed = false })
  client.on('close', () => { hasClosed = true })
  if (purpose === 'subscriber') keepSubscriptions(client)
  client.on('close', () => {
    for (let item = inner.prevCommandQueue?.shift(); item; item = inner.prevCommandQueue?.shift()) item.command.reject(new Error('Connection is closed.'))
  })
}
