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

export const Host = Type.Object({
  id: Type.String({ description: 'Made once for a state directory' }),
  hostname: Type.String(),
  version: Type.String({ description: 'Of Berth' }),
  status: Words(['starting', 'ready', 'stopping']),
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
}, { $id: 'Host', additionalProperties: false })
export type Host = Static<typeof Host>

export const Health = Type.Object({ status: Words(['ok']) }, { $id: 'Health', additionalProperties: false })
export type Health = Static<typeof Health>

export const Readiness = Type.Object({
  ready: Type.Boolean(),
  problems: Type.Array(Type.String(), { description: 'Why the daemon cannot serve at the moment' }),
}, { $id: 'Readiness', additionalProperties: false })
export type Readiness = Static<typeof Readiness>
