/** An event on the wire: something that happened to a sandbox or an exec. */
import { Type, type Static } from '@sinclair/typebox'
import { Page, Timestamp } from './wire.ts'

export const EventType = Type.Union([
  Type.Literal('sandbox.status'), Type.Literal('sandbox.updated'), Type.Literal('sandbox.deleted'), Type.Literal('sandbox.leak'),
  Type.Literal('exec.started'), Type.Literal('exec.ended'), Type.Literal('host.started'), Type.Literal('host.stopping'),
])
export type EventType = Static<typeof EventType>

export const Event = Type.Object({
  seq: Type.Integer({ description: 'Grows by one with each event of this host; read on with ?cursor=<seq>' }),
  at: Timestamp,
  type: EventType,
  sandboxId: Type.Optional(Type.String()),
  execId: Type.Optional(Type.String()),
  data: Type.Record(Type.String(), Type.Unknown(), { description: 'sandbox.status: {from, to, reason?, exitCode?}' }),
}, { $id: 'Event', additionalProperties: false })
export type Event = Static<typeof Event>

export const EventPage = Page(Event, 'EventPage')
export type EventPage = Static<typeof EventPage>
