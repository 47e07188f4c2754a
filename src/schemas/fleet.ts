/** A fleet on the wire: the workers that a gateway knows, and what it places on them. */
import { Type, type Static } from '@sinclair/typebox'
import { SandboxCreate } from './sandbox.ts'
import { PoolName, TaskCreate, maxBatchTasks } from './task.ts'
import { Page, Timestamp, Words, pattern } from './wire.ts'

/** Berth's gateway takes a host's own id. */
export const WorkerId = Type.String({ pattern: pattern('^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$', 'must be the id of a worker'), description: 'Worker id: that of its host', examples: ['hst_2m9xq7tz1c8vw3h5np4k'] })

export const HostLabels = Type.Record(
  Type.String({ pattern: pattern('^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$', 'must be names of labels') }),
  Type.String({ maxLength: 63 }),
  { maxProperties: 16, description: 'Only hosts that have all of these labels' })
export type HostLabels = Static<typeof HostLabels>

const Room = Type.Object({ cpuMillis: Type.Integer(), memoryBytes: Type.Integer() }, { additionalProperties: false })

export const WorkerStatus = Words(['available', 'draining', 'lost'], { description: 'draining: it takes nothing more; lost: it has said nothing for a while, and may be back' })
export type WorkerStatus = Static<typeof WorkerStatus>

export const Worker = Type.Object({
  id: WorkerId,
  status: WorkerStatus,
  pool: Type.String(),
  hostname: Type.String(),
  version: Type.String({ description: 'Of Berth on it' }),
  labels: Type.Record(Type.String(), Type.String()),
  capacity: Room,
  free: Type.Object(Room.properties, { additionalProperties: false, description: 'What it could still take, as it last said' }),
  sandboxes: Type.Integer(),
  tasks: Type.Integer({ description: 'Tasks that it runs' }),
  hasApi: Type.Boolean({ description: 'The gateway can reach its API' }),
  registeredAt: Timestamp,
  lastSeenAt: Timestamp,
}, { $id: 'Worker', additionalProperties: false })
export type Worker = Static<typeof Worker>

export const WorkerPage = Page(Worker, 'WorkerPage')
export type WorkerPage = Static<typeof WorkerPage>

/** A task for a pool: as on a host, and for which hosts. */
export const FleetTaskCreate = Type.Object({ ...TaskCreate.properties, hostLabels: Type.Optional(HostLabels) }, { $id: 'FleetTaskCreate', additionalProperties: false })
export type FleetTaskCreate = Static<typeof FleetTaskCreate>

export const FleetTaskBatch = Type.Object({
  tasks: Type.Array(FleetTaskCreate, { minItems: 1, maxItems: maxBatchTasks, description: 'All of them are queued, or none' }),
}, { $id: 'FleetTaskBatch', additionalProperties: false })
export type FleetTaskBatch = Static<typeof FleetTaskBatch>

/** A sandbox somewhere in a pool: as on a host, and for which hosts. */
export const FleetSandboxCreate = Type.Object({
  ...SandboxCreate.properties,
  pool: Type.Optional(PoolName),
  hostLabels: Type.Optional(HostLabels),
}, { $id: 'FleetSandboxCreate', additionalProperties: false })
export type FleetSandboxCreate = Static<typeof FleetSandboxCreate>

export const fleetTokenScopes = ['admin', 'client', 'read', 'worker'] as const
export const FleetTokenScope = Words(fleetTokenScopes, { description: 'admin: everything; client: tasks and sandboxes of its pools; read: looking at them; worker: joining its pools as a host, and nothing else' })
export type FleetTokenScope = Static<typeof FleetTokenScope>

export const FleetTokenCreate = Type.Object({
  name: Type.String({ minLength: 1, maxLength: 128 }),
  scope: FleetTokenScope,
  pools: Type.Optional(Type.Array(PoolName, { minItems: 1, maxItems: 64, uniqueItems: true, description: 'Only for these; every pool without it' })),
  expiresInMs: Type.Optional(Type.Integer({ minimum: 1000, maximum: 10 * 365 * 24 * 3_600_000, description: 'For ever without it, in milliseconds' })),
}, { $id: 'FleetTokenCreate', additionalProperties: false })
export type FleetTokenCreate = Static<typeof FleetTokenCreate>

export const FleetToken = Type.Object({
  id: Type.String({ pattern: '^tok_[a-z0-9]{20}$' }),
  name: Type.String(),
  scope: FleetTokenScope,
  pools: Type.Optional(Type.Array(Type.String())),
  createdAt: Timestamp,
  expiresAt: Type.Optional(Timestamp),
  token: Type.Optional(Type.String({ description: 'Only in the answer that made it' })),
}, { $id: 'FleetToken', additionalProperties: false })
export type FleetToken = Static<typeof FleetToken>
