import type { Logger } from 'pino'
import { readTraffic, type Traffic } from '../../host/ip-batch.ts'
import { listUsedAddresses } from '../../host/ip-query.ts'
import { Nftables } from '../../host/nftables.ts'
import { pollUntil } from '../../lib/poll.ts'
import type { Egress, NetworkDecision } from '../../schemas/network.ts'
import { AddressLeases } from './address-leases.ts'
import type { AddressSource } from './address-source.ts'
import { configureForwarding, readForwarding } from './forwarding.ts'
import { HostNetwork } from './host-network.ts'
import { claimNetwork, releaseClaim } from './network-claim.ts'
import type { HeldNetwork, NetworkSpec } from './network-manager.ts'
import { servicePorts, type NetworkPlan } from './network-plan.ts'
import { PacketFilter } from './packet-filter.ts'
import type { Counters } from './ruleset-text.ts'
import { NetworkServerSupervisor } from './server/network-server-supervisor.ts'
import { SlotBuilder } from './slot-builder.ts'
import { SlotPool, type SlotCounts } from './slot-pool.ts'

const linksGoneWithinMs = 10_000

/** In the place of a network server that is not started: there is nobody to be told. */
const nobody = { async setPolicy (): Promise<void> {}, async removePolicy (): Promise<void> {} }

export interface OpenNetworkOptions {
  hostId: string
  version: string
  pool4: string
  pool6: string
  /** Where addresses come from, and of what network they are; absent: of `pool4`, which this host gives out itself. */
  addresses?: { source: AddressSource, pool4: string, dir: string }
  poolSize: number
  /** Everything is about to be removed: nothing is started or made ready. */
  isReclaiming: boolean
  defaultEgress: Egress
  resolvers: readonly string[]
  publishAddress: string
  /** Have the kernel forward packets, if it does not yet. */
  configureHost: boolean
  /** Where the host's API will be found; 0 while that is not known. */
  apiPort: number
  serverDir: string
  serverPath: string
  serverLogPath: string
  logLevel: string
  logger: Logger
  onDecision: (decision: Omit<NetworkDecision, 'seq'>) => void
}

/** The networks of this host's sandboxes, and what they stand on. */
export interface OpenNetwork {
  manager: HostNetwork
  /** Where sandboxes find the host; `gateway6` where it has IPv6. */
  gateways: { gateway4: string, gateway6?: string }
  /** Takes over the networks that sandboxes have, removes those that belong to none, and begins to make others ready. */
  adopt: (held: Iterable<{ sandboxId: string, spec: NetworkSpec, held: HeldNetwork }>) => Promise<void>
  /** The host's API is there: opens this port of the gateway to sandboxes that may reach it, and starts the network server. */
  exposeApi: (port: number) => Promise<void>
  /** Looks whether the rules are in force, and sees to it. */
  check: () => Promise<void>
  /** What a sandbox has sent and received; undefined for one that has no network. */
  traffic: (sandboxId: string) => Promise<Traffic | undefined>
  /** Packets that were refused so far, by reason. */
  denials: () => Promise<Counters>
  slots: () => SlotCounts
  /** Lets go: networks of sandboxes stay, with their rules. Where there are none, nothing stays. */
  close: () => Promise<void>
  /** Removes everything. */
  reclaim: () => Promise<void>
}

/** Claims addresses for the sandboxes of this host. @throws BerthError where the host lacks something. */
export async function openNetwork (options: OpenNetworkOptions): Promise<OpenNetwork> {
  const { hostId, version, pool4, pool6, defaultEgress, publishAddress, logger } = options
  const nftables = Nftables.open()
  const { plan: claimed, hasIpv6 } = await claimNetwork({ hostId, pool4, pool6 })
  const plan: NetworkPlan = options.addresses ? { ...claimed, leasedPool4: options.addresses.pool4 } : claimed
  if (options.configureHost) {
    const changes = await configureForwarding()
    if (changes.length > 0) logger.warn({ changes }, 'settings of the host were changed, as configured')
  }
  const forwarding = await readForwarding()
  const builder = new SlotBuilder({ plan, hasIpv6, forwardsIpv6: hasIpv6 && forwarding.ipv6 })
  const leases = options.addresses && new AddressLeases({ ...options.addresses, plan, listUsed: listUsedAddresses, logger })
  const maker = leases?.lending(builder) ?? builder
  const pool = new SlotPool({ plan, builder: maker, size: options.poolSize, logger })
  const filter = new PacketFilter({ plan, nftables, apiPort: options.apiPort, rules: () => manager.rules(), logger })
  const server = new NetworkServerSupervisor({
    dir: options.serverDir,
    command: [process.execPath, '--disable-warning=ExperimentalWarning', options.serverPath],
    logPath: options.serverLogPath,
    settings: {
      version,
      gateway4: plan.gateway4,
      gateway6: plan.gateway6,
      pool4: plan.pool4,
      pool6: plan.pool6,
      ...(plan.leasedPool4 === undefined ? {} : { leasedPool4: plan.leasedPool4 }),
      nflogGroup: plan.nflogGroup,
      resolvers: options.resolvers,
      publishAddress,
      ports: servicePorts,
      logLevel: options.logLevel,
    },
    policies: () => manager.policies(),
    onDecision: options.onDecision,
    onOpen: request => manager.open(request),
    logger,
  })
  const served = options.isReclaiming ? nobody : server
  const manager: HostNetwork = new HostNetwork({ plan, hasIpv6, pool, filter, server: served, defaultEgress, publishAddress, logger })
  const strangers = async () => {
    const taken = manager.takenSlots()
    return (await builder.find()).filter(number => !taken.has(number)).map(number => plan.slot(number))
  }

  async function reclaim (): Promise<void> {
    await pool.close()
    await server.end()
    await maker.destroy(await strangers())
    // The kernel takes links away a moment after their namespaces; while there is one there are rules.
    await pollUntil(async () => (await builder.find()).length === 0, linksGoneWithinMs)
    await filter.drop()
    await releaseClaim(plan, options)
    nftables.close()
    await leases?.adopt([])
    await leases?.close()
  }

  let isStarted = false
  function startServer (): void {
    if (isStarted) return
    isStarted = true
    server.start().catch((error: unknown) => logger.error({ err: error }, 'the network server could not be started'))
  }

  return {
    manager,
    gateways: { gateway4: plan.gateway4, ...(hasIpv6 ? { gateway6: plan.gateway6 } : {}) },
    async adopt (held) {
      for (const { sandboxId, spec, held: network } of held) manager.adopt(sandboxId, spec, network)
      // First of all: what belongs to no sandbox loses every right.
      await filter.reload()
      if (options.isReclaiming) return
      if (!manager.isIdle) startServer()
      const dirty = await strangers()
      await maker.destroy(dirty)
      await leases?.adopt(manager.rules().map(({ slot }) => slot))
      pool.open(manager.takenSlots(), new Set(dirty.map(({ number }) => number)))
    },
    async exposeApi (port) {
      await filter.exposeApi(port)
      // Not before: its start takes a third of a second of a processor, which nobody waits for yet.
      startServer()
    },
    check: () => filter.check(),
    async traffic (sandboxId) {
      const device = manager.deviceOf(sandboxId)
      return device === undefined ? undefined : await readTraffic(device)
    },
    denials: () => filter.denials(),
    slots: () => pool.counts(),
    async close () {
      if (manager.isIdle) return await reclaim()
      await pool.close()
      await server.close()
      filter.close()
      nftables.close()
      await leases?.close()
    },
    reclaim,
  }
}
