/** The named schemas of the API: what the validator, the serialiser and the OpenAPI document share by reference. */
import { Type, type Static, type TSchema, type TUnsafe } from '@sinclair/typebox'
import { Event, EventPage } from './event.ts'
import { Exec, ExecCreate, ExecEvent, ExecPage, ExecResult, ExecSignal } from './exec.ts'
import { FileChange, FileEntry, FileMatch, FileMatches, FileMkdir, FileMove, FilePage, FileRemove } from './file.ts'
import { Health, Host, HostDrainRequest, Readiness, RuntimeInfo } from './host.ts'
import {
  Image, ImageDetail, ImageLayer, ImagePage, ImagePrune, ImagePull, ImageRemoval, LayerPullProgress, PruneResult, PullEvent, RegistryCredentials,
} from './image.ts'
import { LogEnd, LogFrame, LogRecord } from './log.ts'
import {
  Bandwidth, DecisionGap, DecisionPage, EgressRules, ListeningPort, ListeningPorts, Network, NetworkDecision, NetworkRequest, NetworkStatus, PublishRequest,
  PublishedPort, Traffic,
} from './network.ts'
import { OutputSpec, OutputState, OutputView } from './output.ts'
import { Leak, Resources, Sandbox, SandboxCreate, SandboxEnd, SandboxPage, SandboxStop, SandboxUpdate, StepTiming } from './sandbox.ts'
import { PoolStats, QueueStatus, Task, TaskAttempt, TaskBatch, TaskBatchResult, TaskCreate, TaskEnd, TaskPage, TaskRequests, TaskRetry } from './task.ts'
import { AttachCommand, AttachEvent, Terminal, TerminalCreate, TerminalEnd, TerminalPage, TerminalUpdate } from './terminal.ts'
import { Ticket, TicketCreate } from './ticket.ts'
import { MadeSandboxToken, SandboxToken, SandboxTokenCreate, SandboxTokenPage } from './token.ts'
import { Usage, UsageList } from './usage.ts'
import { ErrorBody } from './wire.ts'

const named: TSchema[] = [
  ErrorBody,
  Resources, SandboxEnd, StepTiming, Leak, Sandbox, SandboxPage, SandboxCreate, SandboxUpdate, SandboxStop, Usage, UsageList,
  Exec, ExecPage, ExecCreate, ExecResult, ExecEvent, ExecSignal,
  RegistryCredentials, Image, ImagePage, ImageLayer, ImageDetail, ImagePull, LayerPullProgress, PullEvent, ImagePrune, PruneResult, ImageRemoval,
  EgressRules, PublishRequest, PublishedPort, Bandwidth, NetworkRequest, Network, Traffic, NetworkStatus, ListeningPort, ListeningPorts,
  NetworkDecision, DecisionGap, DecisionPage,
  SandboxToken, SandboxTokenPage, SandboxTokenCreate, MadeSandboxToken, Ticket, TicketCreate,
  TaskRequests, TaskRetry, TaskEnd, TaskAttempt, TaskCreate, TaskBatch, Task, TaskPage, TaskBatchResult, PoolStats, QueueStatus, OutputSpec, OutputView, OutputState,
  TerminalEnd, Terminal, TerminalPage, TerminalCreate, TerminalUpdate, AttachEvent, AttachCommand,
  FileEntry, FilePage, FileMkdir, FileMove, FileRemove, FileChange, FileMatch, FileMatches,
  LogRecord, LogFrame, LogEnd, Event, EventPage, RuntimeInfo, Host, HostDrainRequest, Health, Readiness,
]

/** A reference to a named schema, with the same static type. */
export function ref<T extends TSchema> (schema: T, options: { description?: string } = {}): TUnsafe<Static<T>> {
  if (schema.$id === undefined) throw new Error('only a schema with an $id can be referred to')
  return Type.Unsafe<Static<T>>({ $ref: `${schema.$id}#`, ...options })
}

/** Every named schema of a host's API, or these with those inside them; the named ones inside replaced by references: an `$id` may occur only once. */
export function componentSchemas (roots: readonly TSchema[] = named): Array<Record<string, unknown>> {
  const found = new Map<string, TSchema>()
  for (const root of roots) collectNamed(root, found)
  return [...found.values()].map(schema => ({ $id: schema.$id, ...referring({ ...schema, $id: undefined }) as object }))
}

function collectNamed (value: unknown, found: Map<string, TSchema>): void {
  if (typeof value !== 'object' || value === null) return
  if ('$id' in value && typeof value.$id === 'string') {
    if (found.has(value.$id)) return
    found.set(value.$id, value as unknown as TSchema)
  }
  for (const inner of Object.values(value)) collectNamed(inner, found)
}

function referring (value: unknown): unknown {
  if (Array.isArray(value)) return value.map(referring)
  if (typeof value !== 'object' || value === null) return value
  if ('$id' in value && typeof value.$id === 'string') return { $ref: `${value.$id}#` }
  return Object.fromEntries(Object.entries(value).filter(([key]) => key !== '$id').map(([key, inner]) => [key, referring(inner)]))
}
