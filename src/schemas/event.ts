/** An event on the wire: something that happened to a sandbox, an exec or an image. */
import { Type, type Static } from '@sinclair/typebox'
import { Page, Timestamp, Words } from './wire.ts'

export const EventType = Words([
  'sandbox.status', 'sandbox.updated', 'sandbox.network', 'sandbox.deleted', 'sandbox.leak', 'exec.started', 'exec.ended',
  'terminal.started', 'terminal.ended',
  'task.created', 'task.status', 'task.deleted', 'host.started', 'host.stopping', 'host.draining', 'host.undrained', 'image.pulled', 'image.removed', 'image.stalled', 'image.recovered', 'image.damaged', 'image.lost',
])
export type EventType = Static<typeof EventType>

export const Event = Type.Object({
  seq: Type.Integer({ description: 'Grows by one with each event of this host; read on with ?cursor=<seq>' }),
  at: Timestamp,
  type: EventType,
  sandboxId: Type.Optional(Type.String()),
  execId: Type.Optional(Type.String()),
  terminalId: Type.Optional(Type.String()),
  taskId: Type.Optional(Type.String()),
  data: Type.Record(Type.String(), Type.Unknown(), { description: 'sandbox.status: {from, to, reason?, exitCode?}; sandbox.network: {egress, publish}; terminal.ended: {reason, exitCode?}; task.status: {from, to, attempt, reason?, exitCode?}; host.draining: {stopAt?}; image.…: {digest, reference?} and what else there is to say' }),
}, { $id: 'Event', additionalProperties: false })
export type Event = Static<typeof Event>

export const EventPage = Page(Event, 'EventPage')
export type EventPage = Static<typeof EventPage>
