/** The record of a sandbox on disk: what is wanted, what is so, and what a daemon that starts must know to go on. */
import { BerthError } from '../../errors.ts'
import { readJson, writeDurably } from '../../lib/durable-file.ts'
import type { ProcessIdentity } from '../../host/process.ts'
import type { Network } from '../../schemas/network.ts'
import { closedNetwork, type HeldNetwork, type NetworkSpec } from '../network/network-manager.ts'
import type { EndReason, Leak, Resources, Sandbox, SandboxEnd, SandboxStatus, StepTiming } from '../../schemas/sandbox.ts'

export interface SandboxRecord {
  version: 1
  id: string
  status: SandboxStatus
  image: { reference: string, digest?: string }
  /** As the client gave it; the image's own is in `process`. */
  request: { entrypoint?: string[], env: Record<string, string>, workingDir?: string, user?: string }
  /** What runs, once the image is known. */
  process?: { argv?: string[], env: Record<string, string>, cwd: string, user: string, uid: number, gid: number, additionalGids: number[], stopSignal?: number }
  /** Of the run that is held, the top one first. */
  lowerDirs?: string[]
  resources: Resources
  labels: Record<string, string>
  runtime: string
  hostname: string
  /** What its network shall be. */
  network?: NetworkSpec
  /** What its network is, while a run is held. */
  heldNetwork?: HeldNetwork
  timeoutMs?: number
  idleTimeoutMs?: number
  /** Absolute; only ever extended. Absent while paused: then what is left is in `pausedRemainingMs`. */
  deadlineAt?: string
  idleDeadlineAt?: string
  pausedRemainingMs?: { deadline?: number, idle?: number }
  createdAt: string
  startedAt?: string
  deletedAt?: string
  end?: SandboxEnd
  timings: StepTiming[]
  leaks: Leak[]
  monitor?: ProcessIdentity
  /** Why it is being ended: written before the first signal, and the first reason wins. */
  stopReason?: EndReason
  /** A pause or resume under way: the runtime knows which came true. */
  unsettled?: boolean
  /** The client has been told of it: from then on only a deletion may make it vanish. */
  wasCreated?: boolean
  /** The set-up under way starts the container as it makes it. */
  isStarting?: boolean
  /** Everything is set up and in the record, and the container may have been started. */
  isReady?: boolean
  /** Resources of a run may be held on the host; written before the first is taken, taken back when all are released. */
  holdsRun?: boolean
  /** Deletion has begun and must be finished. */
  isDeleting?: boolean
  idempotencyKey?: string
  /** The delivery of a task that it is made for; its log is the task's. */
  task?: { id: string, fence: number, logCursor: string }
}

/** How a record looks on the wire. */
export function toWire (record: SandboxRecord): Sandbox {
  const { process, request } = record
  const argv = process ? process.argv : request.entrypoint
  return {
    id: record.id,
    status: record.status,
    image: record.image,
    ...(argv ? { entrypoint: argv } : {}),
    env: process?.env ?? request.env,
    workingDir: process?.cwd ?? request.workingDir ?? '',
    user: process?.user ?? request.user ?? '',
    resources: record.resources,
    labels: record.labels,
    runtime: record.runtime,
    hostname: record.hostname,
    network: networkOf(record),
    ...(record.task ? { taskId: record.task.id } : {}),
    ...pickDefined(record, ['timeoutMs', 'idleTimeoutMs', 'deadlineAt', 'idleDeadlineAt', 'startedAt', 'deletedAt', 'end']),
    createdAt: record.createdAt,
    timings: record.timings,
    leaks: record.leaks,
  }
}

function networkOf ({ network = closedNetwork, heldNetwork }: SandboxRecord): Network {
  const { egress, publish, bandwidth, gateway } = network
  return {
    ...(heldNetwork ? pickDefined(heldNetwork, ['ipv4', 'ipv6']) : {}),
    egress,
    // One without a port of the host has not run yet.
    publish: publish.flatMap(({ port, hostPort, protocol }) => hostPort === undefined ? [] : [{ port, hostPort, protocol }]),
    ...(bandwidth ? { bandwidth } : {}),
    gateway,
  }
}

function pickDefined<T extends object, K extends keyof T> (source: T, keys: readonly K[]): Partial<Pick<T, K>> {
  const picked: Partial<Pick<T, K>> = {}
  for (const key of keys) {
    if (source[key] !== undefined) picked[key] = source[key]
  }
  return picked
}

export async function writeRecord (path: string, record: SandboxRecord): Promise<void> {
  await writeDurably(path, JSON.stringify(record))
}

/**
 * The record, or undefined when there is none or it cannot be understood (which only a failing disk brings about).
 *
 * @throws what reading throws, and BerthError internal `record_too_new`: the sandbox is there all the same.
 */
export async function readRecord (path: string): Promise<SandboxRecord | undefined> {
  const record = await readJson(path) as Partial<SandboxRecord> | undefined
  assertRecordVersion(record)
  return typeof record?.id === 'string' ? record as SandboxRecord : undefined
}

/** @throws BerthError internal `record_too_new`: taken for missing, it would be removed with all it describes. */
export function assertRecordVersion (record: { version?: number } | undefined): void {
  if (record?.version === undefined || record.version <= 1) return
  throw new BerthError('internal', 'record_too_new', 'the state directory was last used by a newer Berth; run that version or a later one')
}
