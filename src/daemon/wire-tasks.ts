/** Tasks as the configuration wants them: the queue, the room of this host, who takes tasks while there is some, and where their output goes. */
import { mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import type { Config } from '../config.ts'
import { runtimeProfiles, type OciRuntime } from '../host/oci-runtime.ts'
import { readSecretFile } from '../lib/secret-file.ts'
import { openTaskDatabase } from '../services/database.ts'
import type { EventLog } from '../services/events/event-log.ts'
import { startLogFile } from '../services/logs/log-files.ts'
import type { LogReader } from '../services/logs/log-reader.ts'
import type { NetworkManager } from '../services/network/network-manager.ts'
import { SinkOpener, type OpenSink } from '../services/outputs/open-sink.ts'
import { OutputManager } from '../services/outputs/output-manager.ts'
import { checkOutputSpecs, type OutputSettings } from '../services/outputs/output-settings.ts'
import type { SandboxManager } from '../services/sandboxes/sandbox-manager.ts'
import type { HostPlaces } from '../services/sandboxes/sandbox-places.ts'
import { liveStatuses } from '../services/sandboxes/sandbox-status.ts'
import { defaultReservedMemoryBytes, HostRoom } from '../services/tasks/host-room.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'
import type { TaskDeliveries } from '../services/tasks/task-deliveries.ts'
import { TaskManager } from '../services/tasks/task-manager.ts'
import { createTaskMetrics } from '../services/tasks/task-metrics.ts'
import type { TaskQueue } from '../services/tasks/task-queue.ts'
import type { TaskRecord, TaskSpec } from '../services/tasks/task-record.ts'
import { checkTaskSpec, type SpecRules } from '../services/tasks/task-spec.ts'
import { SinkRefusal } from '../services/outputs/output-sink.ts'
import { TaskNews } from '../services/tasks/task-news.ts'
import { TaskScheduler } from '../services/tasks/task-scheduler.ts'
import { openTaskStore } from '../services/tasks/task-store.ts'
import type { Tracing } from '../services/tracing/tracing.ts'

export interface TaskWiring {
  config: Config
  places: HostPlaces
  hostId: string
  logger: Logger
  tracing?: Tracing
  events: EventLog
  logs: LogReader
  sandboxes: SandboxManager
  runtimes: ReadonlyMap<string, OciRuntime>
  network: Pick<NetworkManager, 'specOf'>
  registry: Registry
  /** The Redis of the fleet, if this host takes tasks of one. */
  redis?: RedisConnection | undefined
}

export interface WiredTasks {
  manager: TaskManager
  scheduler: TaskScheduler
  queue: TaskQueue
  deliveries: TaskDeliveries
  room: HostRoom
  /** Refuses what this host cannot run, as it would refuse it from a client. @throws BerthError. */
  checkSpec: (spec: TaskSpec) => void
  /** The generation from which on a log is still to be delivered. */
  protectedFrom: (logDir: string) => number | undefined
  close: () => Promise<void>
}

const tokenLimits = { minBytes: 1, maxBytes: 16 * 1024 }

export function wireTasks (wiring: TaskWiring): WiredTasks {
  const { config, places, hostId, logger, events, logs, sandboxes, runtimes, network, registry, redis } = wiring
  const store = openTaskStore({
    db: openTaskDatabase(places.taskDatabasePath),
    options: { fairLabel: config.taskFairLabel, labelLimits: config.taskLabelLimits },
  })
  const { queue, table, outbox } = store
  const news = new TaskNews({ outbox, events, onError: error => logger.error({ err: error }, 'events of tasks could not be passed on; it is tried again') })
  const outputSettings: OutputSettings = { hasOutputDir: true, hasS2: config.s2AccessTokenFile !== '', ...(config.s2Basin === '' ? {} : { s2Basin: config.s2Basin }) }
  checkOutputSpecs(config.taskOutputs, outputSettings)
  const sinks = new SinkOpener({
    logger,
    outputDir: config.outputDir,
    ...(outputSettings.hasS2 ? { openS2: s2Opener(config, logger) } : {}),
    ...(redis ? { openFleet: fleetOpener(redis, id => table.get(id)) } : {}),
  })
  const outputs = new OutputManager({
    logs,
    logDir: id => places.task(id).dir,
    outputsDir: id => places.task(id).outputsDir,
    openSink: sinks.open,
    logger,
    onDone: id => { table.markOutputsDone(id).catch(error => logger.warn({ taskId: id, err: error }, 'outputs that are done could not be written down; the next daemon looks again')) },
  })
  const room = new HostRoom({
    cpuOvercommit: config.taskCpuOvercommit,
    reservedMemoryBytes: config.taskReservedMemoryBytes || defaultReservedMemoryBytes(),
    stateDir: config.stateDir,
    overheadBytes: Math.max(...Object.values(runtimeProfiles).map(({ overhead }) => overhead.memoryBytes)),
    others: () => sandboxes.all().filter(({ record, status }) => !record.task && liveStatuses.includes(status)).map(({ record }) => record.resources),
  })
  const rules: SpecRules = {
    largest: room.largest,
    runtimes: new Set(runtimes.keys()),
    defaultOutputs: config.taskOutputs,
    checkNetwork: request => { network.specOf(request) },
    checkOutputs: specs => checkOutputSpecs(specs, outputSettings),
  }
  // What comes from the fleet is queued here too.
  const pools = [...new Set([...config.taskPools, ...(redis ? [config.pool] : [])])]
  const metrics = createTaskMetrics(registry, { counts: () => queue.stats() })
  const scheduler = new TaskScheduler({
    queue,
    sandboxes,
    room,
    owner: hostId,
    pools,
    leaseMs: config.taskLeaseMs,
    maxStarting: config.maxConcurrentStarts,
    startLog: async id => {
      const { dir } = places.task(id)
      await mkdir(dir, { recursive: true, mode: 0o700 })
      return await startLogFile(dir)
    },
    onChange: task => {
      manager.onChange(task)
      metrics.observe(task)
    },
    logger,
    ...(wiring.tracing ? { tracing: wiring.tracing } : {}),
  })
  const manager: TaskManager = new TaskManager({
    queue,
    table,
    scheduler,
    outputs,
    logs,
    places,
    room,
    rules,
    pools,
    retention: { maxAgeMs: config.taskRetentionMs, maxCount: config.taskRetentionCount },
    logger,
  })
  news.start()
  return {
    manager,
    scheduler,
    queue,
    deliveries: store.deliveries,
    room,
    checkSpec: spec => checkTaskSpec(spec, rules),
    protectedFrom: logDir => dirname(logDir) === places.tasksDir ? outputs.protectedGeneration(logDir.slice(places.tasksDir.length + 1)) : undefined,
    async close () {
      await scheduler.close()
      await outputs.close()
      await sinks.close()
      await news.close()
      await store.close()
    },
  }
}

/** Redis is loaded only where it is used. */
function fleetOpener (redis: RedisConnection, find: (taskId: string) => TaskRecord | undefined): OpenSink {
  return async ({ taskId, state }) => {
    const fleet = find(taskId)?.spec.fleet
    if (!fleet) throw new SinkRefusal('the task comes from no fleet')
    const { openFleetSink } = await import('../services/fleet-wire/fleet-log-sink.ts')
    return openFleetSink({ redis, taskKey: fleet.externalId ?? fleet.taskId, attempt: fleet.attempt, fence: fleet.fence, state })
  }
}

/** S2 is loaded only where it is used. The token is read for each sink, so that it can be changed while the daemon runs. */
function s2Opener (config: Config, logger: Logger): OpenSink {
  return async ({ taskId, spec, state }) => {
    const { openS2Sink } = await import('../services/outputs/s2-sink.ts')
    const accessToken = (await readSecretFile(config.s2AccessTokenFile, tokenLimits)).toString('utf8').trim()
    return await openS2Sink({
      taskId,
      basin: spec.basin ?? config.s2Basin,
      ...(config.s2Endpoint === '' ? {} : { endpoint: config.s2Endpoint }),
      accessToken,
      state,
      logger,
    })
  }
}
