/** The wiring: builds every service in order into one resource stack. Read top to bottom; each line uses only lines above it. */
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import type { Config } from './config.ts'
import { openDoors } from './daemon/open-doors.ts'
import { proveSandbox } from './daemon/prove-sandbox.ts'
import { openFleetConnections, wireFleet } from './daemon/wire-fleet.ts'
import { wireImages } from './daemon/wire-images.ts'
import { wireTasks, type WiredTasks } from './daemon/wire-tasks.ts'
import { wireTerminals } from './daemon/wire-terminals.ts'
import { CgroupManager } from './host/cgroup.ts'
import { LockFile } from './host/lock-file.ts'
import { discoverPrograms, discoverRuntimes } from './host/programs.ts'
import { removeTrees } from './host/remove.ts'
import { ResourceStack } from './lib/resource-stack.ts'
import { openEventsDatabase, openNetworkDatabase, openStateDatabase } from './services/database.ts'
import { EventLog, type NewEvent } from './services/events/event-log.ts'
import { ExecManager } from './services/execs/exec-manager.ts'
import { FileManager } from './services/files/file-manager.ts'
import { HostDrain } from './services/host/host-drain.ts'
import { readHostId } from './services/host/host-id.ts'
import { HostInfo } from './services/host/host-info.ts'
import { reclaimHost } from './services/host/reclaim.ts'
import { IdempotencyStore } from './services/idempotency/idempotency-store.ts'
import { LogBudget } from './services/logs/log-budget.ts'
import { LogReader } from './services/logs/log-reader.ts'
import { LogRotator } from './services/logs/log-rotator.ts'
import { createMetrics } from './services/metrics.ts'
import { DecisionLog } from './services/network/decision-log.ts'
import { closedNetwork } from './services/network/network-manager.ts'
import { createNetworkMetrics } from './services/network/network-metrics.ts'
import { openNetwork } from './services/network/open-network.ts'
import { PortLister } from './services/network/port-lister.ts'
import { PreviewForwarder } from './services/network/preview-forwarder.ts'
import { SandboxKeeper } from './services/sandboxes/sandbox-keeper.ts'
import { SandboxManager } from './services/sandboxes/sandbox-manager.ts'
import { HostPlaces } from './services/sandboxes/sandbox-places.ts'
import { SandboxReconciler } from './services/sandboxes/sandbox-reconciler.ts'
import { installInit, sandboxSteps, type SandboxStep } from './services/sandboxes/sandbox-steps.ts'
import { UsageReader } from './services/sandboxes/usage-reader.ts'
import type { TerminalManager } from './services/terminals/terminal-manager.ts'
import { TicketStore } from './services/tokens/ticket-store.ts'
import { TokenStore } from './services/tokens/token-store.ts'
import type { Tracing } from './services/tracing/tracing.ts'

export interface DaemonOptions {
  config: Config
  logger: Logger
  version: string
  tracing?: Tracing
  /** Other set-up steps in the place of the usual ones; fault injection wraps them. */
  wrapSteps?: (steps: SandboxStep[]) => SandboxStep[]
}

export interface Daemon {
  /** http://HOST:PORT, with the port that was taken. */
  url: string
  socketPath: string
  tokenPath: string
  /** Runs a sandbox on the base image to its end; says whether it could, and what the sandbox showed. */
  selfTest: () => Promise<{ ok: boolean, detail: string, durationMs: number }>
  /** Ends the daemon: stops listening, ends requests within the grace; sandboxes go on unless configured otherwise. */
  close: () => Promise<void>
}

const joinCgroupPath = fileURLToPath(new URL('../libexec/join-cgroup', import.meta.url))
const withoutNetSysctlsPath = fileURLToPath(new URL('../libexec/without-net-sysctls', import.meta.url))
/** How long a program of a task that is drained has to end by itself. */
const stopGraceMs = 10_000
const networkServerPath = fileURLToPath(new URL('./network-server.ts', import.meta.url))

/**
 * Starts the daemon on its directories: adopts what runs, cleans up what is half done, then listens.
 *
 * @throws BerthError where the host lacks something, or another daemon holds the directories.
 */
export async function startDaemon (options: DaemonOptions): Promise<Daemon> {
  const stack = new ResourceStack({ releaseDeadlineMs: options.config.shutdownGraceMs + 60_000 })
  try {
    return await wire(options, stack)
  } catch (error) {
    await stack.release()
    throw error
  }
}

async function wire (options: DaemonOptions, stack: ResourceStack): Promise<Daemon> {
  const { config, logger, version, tracing } = options
  const places = new HostPlaces(config)
  await places.make()
  await stack.acquire('state lock', () => LockFile.acquire(places.lockPath, `the state directory ${config.stateDir}`), lock => lock.release())
  await stack.acquire('run lock', () => LockFile.acquire(places.runLockPath, `the run directory ${config.runDir}`), lock => lock.release())
  const hostId = await readHostId(join(config.stateDir, 'host-id'))
  const bootId = await readFile('/proc/sys/kernel/random/boot_id', 'latin1')
  const hasHostRestarted = await readFile(places.bootMarkerPath, 'latin1').catch(() => '') !== bootId
  if (hasHostRestarted) {
    // What another boot left here describes processes that are gone, by pids that others may have.
    await removeTrees([places.runSandboxesDir, places.runtimesDir])
    await places.make()
  }

  const programs = discoverPrograms()
  const runtimes = await discoverRuntimes({ defaultRuntime: config.runtime, runtimeRoot: name => places.runtimeRoot(name), programs, joinCgroupPath, withoutNetSysctlsPath })
  await installInit(places.initDir, programs)
  const cgroups = await CgroupManager.detect(`/berth/${hostId}`)
  await cgroups.open()

  const db = await stack.acquire('database', () => openStateDatabase(join(config.stateDir, 'berth.db')), opened => opened.close())
  const events = await stack.acquire('events', () => new EventLog({ db: openEventsDatabase(join(config.stateDir, 'events.db'), logger) }), log => log.close())
  const news = tolerant(events, logger)
  const drain = await stack.acquire('drain', () => HostDrain.open({ path: join(config.stateDir, 'drain.json'), events: news, logger }), opened => opened.close())
  const tokens = new TokenStore({ db })
  const idempotency = new IdempotencyStore({ db })
  const metrics = createMetrics()

  const reconciled = Promise.withResolvers<void>()
  const images = await wireImages({
    config,
    places,
    programs,
    logger,
    news,
    endThoseOn: async isLost => {
      await reconciled.promise
      return await sandboxes.endThoseOn(isLost)
    },
  })
  stack.defer('images', () => images.close())
  const decisions = await stack.acquire('decisions', () => new DecisionLog({
    db: openNetworkDatabase(join(config.stateDir, 'network.db'), logger),
    onError: (error, lost) => logger.error({ err: error, lost }, 'decisions about networks could not be written'),
  }), log => log.close())
  const connections = await openFleetConnections(config, hostId, logger, stack)
  const addressSource = config.networkAddresses === 'gateway' ? connections.gateway : undefined
  const network = await stack.acquire('network', () => openNetwork({
    hostId,
    version,
    pool4: config.networkIpv4Pool,
    pool6: config.networkIpv6Pool,
    ...(addressSource ? { addresses: { source: addressSource, pool4: config.gatewayIpv4Pool, dir: places.addressLeasesDir } } : {}),
    poolSize: config.networkPoolSize,
    isReclaiming: config.reclaimAndExit,
    defaultEgress: config.networkEgress,
    resolvers: config.networkResolvers,
    publishAddress: config.publishAddress,
    configureHost: config.configureHost,
    apiPort: config.listen.port,
    serverDir: places.networkServerDir,
    serverPath: networkServerPath,
    serverLogPath: places.networkServerLogPath,
    logLevel: config.logLevel,
    logger,
    onDecision: decision => {
      decisions.record(decision)
      networkMetrics.observeDecision(decision)
    },
  }), opened => opened.close())
  const logs = new LogReader()
  const rotator = new LogRotator({ maxLogBytes: config.maxLogBytes, keepBytes: config.logKeepBytes, protectedFrom: dir => tasks.protectedFrom(dir) })
  const steps = sandboxSteps({ places, images, network: network.manager, cgroups, runtimes: runtimes.byName })
  const sandboxes = new SandboxManager({
    places,
    cgroups,
    runtimes: runtimes.byName,
    steps: options.wrapSteps?.(steps) ?? steps,
    network: network.manager,
    logger,
    defaultRuntime: config.runtime,
    maxConcurrentStarts: config.maxConcurrentStarts,
    assertTaking: () => drain.assertTaking(),
    events: news,
    onSetUp: timings => metrics.observeSetUp(timings),
    onEnded: record => {
      logs.wake(places.logDir(record))
      void execs.settle(record.id)
      void terminals.onSandboxEnded(record.id)
      forwarder.open.endAllOf(record.id)
      tasks.scheduler.poke()
    },
    onRemoved: record => {
      logs.wake(places.logDir(record))
      rotator.forget(places.logDir(record))
      execs.forget(record.id)
      terminals.forget(record.id)
      tokens.revokeOf(record.id)
      decisions.forget(record.id)
    },
  })
  stack.defer('sandboxes', () => sandboxes.close())
  const execs = new ExecManager({ places, sandboxes, images, events: news, logger, onEnded: (sandboxId, execId) => logs.wake(places.exec(sandboxId, execId).dir) })
  stack.defer('execs', () => execs.close())
  const terminals: TerminalManager = wireTerminals({ config, version, places, sandboxes, images, events: news, logger })
  stack.defer('terminals', () => terminals.close())
  const files = new FileManager({ places, sandboxes, images, logger, stallMs: config.followerStallMs })
  stack.defer('files', () => files.close())
  metrics.countSandboxes(sandboxes)
  const tasks: WiredTasks = await stack.acquire('tasks', async () => wireTasks({
    config, places, hostId, logger, events, logs, sandboxes, runtimes: runtimes.byName, network: network.manager, registry: metrics.registry, redis: connections.redis, tracing,
  }), wired => wired.close())
  const networkMetrics = createNetworkMetrics(metrics.registry, {
    counters: () => network.denials(),
    slots: () => ({ ...network.slots() }),
    onError: error => logger.warn({ err: error }, 'counters of the packet filter could not be read'),
  })
  const ports = new PortLister({ execs })
  const forwarder: PreviewForwarder = new PreviewForwarder({ targets: sandboxes, beginActivity: id => sandboxes.beginActivity(id) })
  stack.defer('previews', () => forwarder.open.close())
  const tickets = new TicketStore({ isTokenValid: id => tokens.isValid(id) })
  drain.onChange(isDraining => isDraining ? tasks.scheduler.drain() : tasks.scheduler.undrain())
  drain.onStopDue(() => tasks.scheduler.stopAll(stopGraceMs))
  const fleet = await stack.acquire('fleet', () => wireFleet({ ...connections, config, hostId, version, logger, tasks, sandboxes, tokens, drain }), wired => wired.close())
  const host = new HostInfo({ id: hostId, version, stateDir: config.stateDir, cgroupVersion: cgroups.version, runtimes: runtimes.infos, sandboxes, drain, ...fleet.facts })

  const startedMs = performance.now()
  await sandboxes.open()
  await images.adopt(new Set(sandboxes.all().filter(({ record }) => !record.deletedAt).map(({ record }) => record.id)))
  await network.adopt(hasHostRestarted ? [] : heldNetworks(sandboxes))
  const reconciler = new SandboxReconciler({ places, cgroups, runtimes: runtimes.byName, logger })
  await reconciler.adopt(sandboxes.all(), { hasHostRestarted })
  await execs.adopt()
  await terminals.adopt({ hasHostRestarted })
  await writeFile(places.bootMarkerPath, bootId)
  const adoptedMs = Math.round(performance.now() - startedMs)
  const reclaimed = await reconciler.reclaimStrangers(sandboxes.all())
  await sandboxes.removeUnreadable()
  reconciled.resolve()
  logger.info({ adoptedMs, hasHostRestarted, sandboxes: sandboxes.countByStatus(), reclaimed }, 'the host is reconciled')

  if (config.reclaimAndExit) {
    await tasks.close()
    await reclaimHost({ sandboxes, terminals, images, reconciler, cgroups, network, places, socketPath: config.socketPath })
    await stack.release()
    return idleDaemon(config)
  }

  const budget = new LogBudget({ diskBytes: config.logDiskBytes || Infinity })
  await tasks.manager.adopt()
  const keeper = new SandboxKeeper({
    sandboxes,
    execs,
    terminals,
    rotator,
    places,
    deletedRetentionMs: config.deletedRetentionMs,
    checkNetwork: () => network.check(),
    prune: async () => {
      await events.prune()
      idempotency.prune()
      await decisions.prune()
      await images.sweep()
      await tasks.manager.prune()
      await budget.enforce([...sandboxes.logs(), ...execs.logs(), ...await tasks.manager.logs()])
    },
    logger,
  })
  keeper.start()
  stack.defer('keeper', () => keeper.close())
  if (config.stopSandboxes) stack.defer('running sandboxes', () => stopAll(sandboxes, logger))

  tokens.revokeOrphans(id => sandboxes.all().some(({ record }) => record.id === id && !record.deletedAt))
  const tokenPath = join(config.stateDir, 'admin.token')
  const token = tokens.ensureAdminToken(tokenPath)
  if (token.isNew) logger.info({ tokenPath }, 'an admin token was made')
  const logSources = {
    sandboxLog: (id: string) => sandboxes.sandboxLog(id),
    execLog: (id: string, execId: string) => execs.execLog(id, execId),
    taskLog: (id: string, attempt?: number) => tasks.manager.taskLog(id, attempt),
  }
  const { url } = await openDoors({
    config,
    logger,
    version,
    tracing,
    db,
    stack,
    network,
    forwarder,
    services: {
      tasks: tasks.manager,
      sandboxes,
      usages: new UsageReader({ cgroups, sandboxes }),
      execs,
      terminals,
      files,
      images,
      decisions,
      ports,
      network,
      tickets,
      logSources,
      logs,
      events,
      host,
      tokens,
      idempotency,
      metrics: metrics.registry,
    },
  })
  stack.defer('status', () => {
    host.setStatus('stopping')
    news.append({ type: 'host.stopping' })
  })
  fleet.start()
  drain.start()
  // After the drain: it begins nothing on a host that is drained.
  tasks.scheduler.start()
  stack.defer('tasks that wait', () => tasks.scheduler.drain())
  host.setStatus('ready')
  news.append({ type: 'host.started', data: { version, hasHostRestarted } })
  return {
    url,
    socketPath: config.socketPath,
    tokenPath,
    selfTest: () => proveSandbox(sandboxes, execs),
    async close () {
      if (config.stopSandboxes) await fleet.leave()
      for (const { name, error } of await stack.release()) logger.error({ part: name, err: error }, 'a part of the daemon did not end cleanly')
    },
  }
}

/** What is left of a daemon that only had to reclaim. */
function idleDaemon (config: Config): Daemon {
  const nothing = async () => { throw new Error('this daemon has ended') }
  return { url: '', socketPath: config.socketPath, tokenPath: '', selfTest: nothing, close: async () => {} }
}

/** Records are the truth: a disk too full for an event must not keep a sandbox from being stopped. */
function tolerant (events: EventLog, logger: Logger): { append: (event: NewEvent) => void } {
  return {
    append (event) {
      try {
        events.append(event)
      } catch (error) {
        logger.error({ event, err: error }, 'an event could not be written')
      }
    },
  }
}

async function stopAll (sandboxes: SandboxManager, logger: Logger): Promise<void> {
  await Promise.all(sandboxes.all().map(async sandbox => {
    await sandbox.stop({ reason: 'drained' }).catch(error => logger.error({ sandboxId: sandbox.record.id, err: error }, 'a sandbox could not be stopped'))
  }))
}

/** Networks that sandboxes may have since before this daemon. */
function heldNetworks (sandboxes: SandboxManager) {
  return sandboxes.all().flatMap(({ record: { id, holdsRun, network = closedNetwork, heldNetwork } }) => {
    return holdsRun && heldNetwork ? [{ sandboxId: id, spec: network, held: heldNetwork }] : []
  })
}
