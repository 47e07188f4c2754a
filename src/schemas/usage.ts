/** What sandboxes use, on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { SandboxId, Timestamp } from './wire.ts'

export const Usage = Type.Object({
  sandboxId: SandboxId,
  at: Timestamp,
  cpuTimeMs: Type.Number({ description: 'Processor time since the start, of all cores together, in milliseconds; the difference of two answers over the time between them is the load' }),
  memoryBytes: Type.Integer({ description: 'Memory, with what the runtime needs for itself, and with cached files' }),
  peakMemoryBytes: Type.Integer(),
  pids: Type.Integer({ description: 'Processes and threads of the host, those of the runtime among them' }),
}, { $id: 'Usage', additionalProperties: false })
export type Usage = Static<typeof Usage>

export const UsageList = Type.Object({ items: Type.Array(Usage) }, { $id: 'UsageList', additionalProperties: false })
export type UsageList = Static<typeof UsageList>
