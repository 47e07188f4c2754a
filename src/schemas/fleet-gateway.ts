/** A gateway of a fleet on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { FleetToken } from './fleet.ts'
import { Page } from './wire.ts'

export const Gateway = Type.Object({
  id: Type.String({ description: 'Of this gateway among those of its fleet; another one after each start' }),
  version: Type.String({ description: 'Of Berth' }),
  isRedisConnected: Type.Boolean(),
}, { $id: 'Gateway', additionalProperties: false })
export type Gateway = Static<typeof Gateway>

const Room = Type.Object({ cpuMillis: Type.Integer(), memoryBytes: Type.Integer() }, { additionalProperties: false })

export const FleetPool = Type.Object({
  pool: Type.String(),
  workers: Type.Object({ available: Type.Integer(), draining: Type.Integer(), lost: Type.Integer() }, { additionalProperties: false }),
  capacity: { ...Room, description: 'Of the workers that are not lost' },
  free: { ...Room, description: 'Of those that take something' },
  delayed: Type.Integer({ description: 'Tasks that are pending, but not yet due' }),
  pending: Type.Integer({ description: 'Tasks that are due, and wait for room or their turn' }),
  scheduled: Type.Integer(),
  running: Type.Integer(),
  deadLetters: Type.Integer(),
  oldestPendingMs: Type.Optional(Type.Integer({ description: 'How long the task that waits longest has been due' })),
}, { $id: 'FleetPool', additionalProperties: false })
export type FleetPool = Static<typeof FleetPool>

export const FleetPoolList = Type.Object({ items: Type.Array(FleetPool, { description: 'All of them, by name' }) }, { $id: 'FleetPoolList', additionalProperties: false })
export type FleetPoolList = Static<typeof FleetPoolList>

export const FleetTokenPage = Page(FleetToken, 'FleetTokenPage')
export type FleetTokenPage = Static<typeof FleetTokenPage>
