/** The doors of this host: the API by TCP, for root by a unix socket, and for sandboxes at their gateways. */
import type { AddressInfo } from 'node:net'
import type { Logger } from 'pino'
import { buildApp, defaultLimits, type AppServices } from '../app.ts'
import type { Config } from '../config.ts'
import type { ResourceStack } from '../lib/resource-stack.ts'
import type { DoorOptions } from '../routes/door.ts'
import { GatewayDoor } from '../routes/gateway-door.ts'
import { hostStopping } from '../routes/http-errors.ts'
import { PreviewGate } from '../routes/preview.ts'
import { RootSocket } from '../routes/root-socket.ts'
import { readCertificate, renewCertificate } from '../routes/tls-certificate.ts'
import type { OpenNetwork } from '../services/network/open-network.ts'
import type { PreviewForwarder } from '../services/network/preview-forwarder.ts'
import { PreviewSessions } from '../services/tokens/preview-sessions.ts'
import type { TicketStore } from '../services/tokens/ticket-store.ts'
import type { TokenStore } from '../services/tokens/token-store.ts'
import type { Tracing } from '../services/tracing/tracing.ts'
import { UpgradeKeeper } from '../ws/upgrade-keeper.ts'

export interface DoorsWiring {
  config: Config
  logger: Logger
  version: string
  tracing?: Tracing
  db: ConstructorParameters<typeof PreviewSessions>[0]['db']
  /** The doors are closed with it, the last first. */
  stack: ResourceStack
  network: OpenNetwork
  forwarder: PreviewForwarder
  services: AppServices & { tokens: TokenStore, tickets: TicketStore }
}

/** Opens them all; answers where the one by TCP is. */
export async function openDoors ({ config, logger, version, tracing, db, stack, network, forwarder, services }: DoorsWiring): Promise<{ url: string }> {
  const { tokens, tickets } = services
  const certificateFiles = { certFile: config.tlsCertFile, keyFile: config.tlsKeyFile, clientCaFile: config.tlsClientCaFile }
  const certificates = config.tlsCertFile === '' ? undefined : await readCertificate(certificateFiles)
  const closing = new AbortController()
  const forcing = new AbortController()
  const isTrusted = (socket: Parameters<RootSocket['has']>[0]) => rootSocket.has(socket)
  const previews = new PreviewGate({
    tokens,
    tickets,
    sessions: new PreviewSessions({ db, isTokenValid: id => tokens.isValid(id) }),
    isTrusted,
    previewDomain: config.previewDomain || undefined,
    forwarder,
    closing: closing.signal,
    forcing: forcing.signal,
    log: logger,
  })
  const upgrades = new UpgradeKeeper({ passing: previews })
  const door: DoorOptions = {
    handle: (request, response) => app.routing(request, response),
    maxHeaderBytes: defaultLimits.headBytes,
    requestTimeoutMs: defaultLimits.requestTimeoutMs,
    upgrades,
  }
  const rootSocket: RootSocket = new RootSocket({ ...door, path: config.socketPath })
  const gatewayDoor = new GatewayDoor({ ...door, isWelcome: address => network.manager.mayReachApi(address) })
  const app = buildApp({
    services,
    logger,
    version,
    tracing,
    isTrusted,
    closing: closing.signal,
    forcing: forcing.signal,
    previews,
    upgrades,
    limits: { followerStallMs: config.followerStallMs },
    certificates,
  })
  await app.ready()
  await stack.acquire('socket', () => rootSocket.open(), () => rootSocket.close())
  await stack.acquire('http', () => app.listen({ host: config.listen.host, port: config.listen.port }), () => closeApp(app, config.shutdownGraceMs, forcing))
  if (certificates) {
    stack.defer('certificate', renewCertificate(app.server as never, certificateFiles, certificates, error => logger.error({ err: error }, 'the certificate of the API cannot be renewed')))
  }
  const { address, port } = app.server.address() as AddressInfo
  // An API that listens everywhere is found there too.
  const doors = ['0.0.0.0', '::'].includes(address) ? [] : Object.values(network.gateways)
  await stack.acquire('gateway', () => gatewayDoor.open(doors, port), () => gatewayDoor.close())
  await network.exposeApi(port)
  stack.defer('streams', () => closing.abort(hostStopping()))
  return { url: `${certificates ? 'https' : 'http'}://${address.includes(':') ? `[${address}]` : address}:${port}` }
}

/** Lets requests under way come to their end, within the grace; then those that would not are told to. */
async function closeApp (app: { close: () => Promise<unknown> }, graceMs: number, forcing: AbortController): Promise<void> {
  const timer = setTimeout(() => forcing.abort(hostStopping()), graceMs)
  try {
    await app.close()
  } finally {
    clearTimeout(timer)
  }
}
