/** This machine and daemon on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { Timestamp, Words } from './wire.ts'

export const RuntimeInfo = Type.Object({
  name: Type.String(),
  path: Type.String(),
  version: Type.String(),
  platform: Type.Optional(Type.String({ description: 'runsc: how it intercepts system calls' })),
  isDefault: Type.Boolean(),
}, { $id: 'RuntimeInfo', additionalProperties: false })
export type RuntimeInfo = Static<typeof RuntimeInfo>

export const HostGateway = Type.Object({
  target: Type.String({ description: 'HOST:PORT' }),
  isConnected: Type.Boolean({ description: 'The last call came to a good end' }),
  workerId: Type.Optional(Type.String({ description: 'As which worker the gateway knows this host; absent while it does not' })),
  lastHeartbeatAt: Type.Optional(Timestamp),
  problem: Type.Optional(Type.String({ description: 'Why it is not connected' })),
}, { additionalProperties: false, description: 'The gateway of the fleet that this host belongs to; absent without one' })
export type HostGateway = Static<typeof HostGateway>

export const HostQueue = Type.Object({
  isConnected: Type.Boolean(),
  pool: Type.String({ description: 'Whose tasks this host takes' }),
}, { additionalProperties: false, description: 'The queue of the fleet; absent without one' })
export type HostQueue = Static<typeof HostQueue>

export const HostDrainState = Type.Object({
  since: Timestamp,
  stopAt: Type.Optional(Type.String({ format: 'date-time', description: 'When tasks that still run are stopped, and given back' })),
}, { additionalProperties: false, description: 'Since when this host takes nothing more; absent while it does' })
export type HostDrainState = Static<typeof HostDrainState>

const maxStopAfterMs = 24 * 3_600_000

export const HostDrainRequest = Type.Object({
  stopAfterMs: Type.Optional(Type.Integer({ minimum: 0, maximum: maxStopAfterMs, description: 'Stop tasks that still run after this long, in milliseconds, and give them back; without it they come to their own end' })),
}, { $id: 'HostDrainRequest', additionalProperties: false })
export type HostDrainRequest = Static<typeof HostDrainRequest>

export const Host = Type.Object({
  id: Type.String({ description: 'Made once for a state directory' }),
  hostname: Type.String(),
  version: Type.String({ description: 'Of Berth' }),
  status: Words(['starting', 'ready', 'draining', 'stopping'], { description: 'draining: no task is begun and no sandbox created; what runs goes on' }),
  startedAt: Timestamp,
  pid: Type.Integer(),
  kernel: Type.String(),
  node: Type.String(),
  cgroupVersion: Type.Integer(),
  runtimes: Type.Array(RuntimeInfo),
  capacity: Type.Object({ cpuMillis: Type.Integer(), memoryBytes: Type.Integer(), diskBytes: Type.Integer() }, { additionalProperties: false }),
  usage: Type.Object({
    sandboxes: Type.Record(Type.String(), Type.Integer(), { description: 'Number of sandboxes by status' }),
    requestedCpuMillis: Type.Integer({ description: 'Sum over sandboxes that are not ended' }),
    requestedMemoryBytes: Type.Integer(),
    memoryBytes: Type.Integer({ description: 'In use on the whole machine' }),
    diskBytes: Type.Integer({ description: 'In use on the file system of the state directory' }),
    loadAverage: Type.Array(Type.Number()),
  }, { additionalProperties: false }),
  drain: Type.Optional(HostDrainState),
  gateway: Type.Optional(HostGateway),
  queue: Type.Optional(HostQueue),
}, { $id: 'Host', additionalProperties: false })
export type Host = Static<typeof Host>

export const Health = Type.Object({ status: Words(['ok']) }, { $id: 'Health', additionalProperties: false })
export type Health = Static<typeof Health>

export const Readiness = Type.Object({
  ready: Type.Boolean(),
  problems: Type.Array(Type.String(), { description: 'Why the daemon cannot serve at the moment' }),
}, { $id: 'Readiness', additionalProperties: false })
export type Readiness = Static<typeof Readiness>
