/** A task on the wire: a command that is queued, run in a sandbox of its own, and reported on exactly once. */
import { Type, type Static } from '@sinclair/typebox'
import { PullPolicy } from './image.ts'
import { NetworkRequest } from './network.ts'
import { OutputSpec, OutputState, OutputView } from './output.ts'
import { Resources, SandboxCreate, StepTiming, endReasons, maxTimeoutMs } from './sandbox.ts'
import { Page, SandboxId, Timestamp, Words, pattern } from './wire.ts'

export const TaskId = Type.String({ pattern: '^tsk_[a-z0-9]{20}$', description: 'Task id', examples: ['tsk_2m9xq7tz1c8vw3h5np4k'] })

export const PoolName = Type.String({
  pattern: pattern('^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$', 'must be at most 63 of a-z, 0-9 and . _ -, and begin and end with a letter or digit'),
  default: 'default',
  description: 'Which hosts may take it: those that serve this pool',
})

export const TaskStatus = Words(['pending', 'scheduled', 'running', 'complete', 'failed', 'cancelled'], {
  description: 'pending → scheduled → running → complete | failed | cancelled; back to pending where another attempt follows',
})
export type TaskStatus = Static<typeof TaskStatus>

export const TaskEndReason = Words([...endReasons, 'cancelled', 'sandbox_deleted', 'undeliverable'] as const, {
  description: 'Why a task, or one of its attempts, ended: as its sandbox did, or: cancelled; its sandbox was deleted by somebody else; undeliverable: handed out again and again without ever being run to an end',
})
export type TaskEndReason = Static<typeof TaskEndReason>

/** How a task, or one attempt of it, ended. */
export const TaskEnd = Type.Object({
  reason: TaskEndReason,
  at: Timestamp,
  exitCode: Type.Optional(Type.Integer({ description: 'Exit code of the command; 128 + n when signal n ended it' })),
  signal: Type.Optional(Type.String()),
  step: Type.Optional(Type.String({ description: 'setup_failed: the step that failed' })),
  code: Type.Optional(Type.String({ description: 'setup_failed: the code of the error' })),
  message: Type.Optional(Type.String()),
  peakMemoryBytes: Type.Optional(Type.Integer()),
}, { $id: 'TaskEnd', additionalProperties: false })
export type TaskEnd = Static<typeof TaskEnd>

export const TaskAttempt = Type.Object({
  number: Type.Integer({ minimum: 1, description: 'Which attempt of maxAttempts; the same again where one was given back without having counted' }),
  status: Words(['scheduled', 'running', 'complete', 'failed', 'cancelled', 'returned'], { description: 'returned: given back to the queue, and not counted as an attempt' }),
  workerId: Type.Optional(Type.String({ description: 'Of a fleet: the worker that has it, or had it' })),
  sandboxId: Type.Optional(SandboxId),
  logCursor: Type.Optional(Type.String({ description: 'Where its output begins in the log of the task' })),
  claimedAt: Timestamp,
  startedAt: Type.Optional(Timestamp),
  endedAt: Type.Optional(Timestamp),
  end: Type.Optional(TaskEnd),
  timings: Type.Optional(Type.Array(StepTiming, { description: 'How long each set-up step of its sandbox took' })),
}, { $id: 'TaskAttempt', additionalProperties: false })
export type TaskAttempt = Static<typeof TaskAttempt>

/** What the queue counts against the room of a host. */
export const TaskRequests = Type.Object({
  cpuMillis: Type.Integer({ minimum: 0, maximum: 32_000, description: 'Share of the processors that is kept for it, in thousandths of a core; at most its limit, which is the default' }),
  memoryBytes: Type.Integer({ minimum: 0, maximum: 128 * 1024 ** 3, description: 'Memory that is kept for it, in bytes; at most its limit, which is the default. Less lets more tasks run at once, and trusts them to stay below' }),
}, { $id: 'TaskRequests', additionalProperties: false })
export type TaskRequests = Static<typeof TaskRequests>

export const TaskRetry = Type.Object({
  backoffMs: Type.Integer({ minimum: 0, maximum: 3_600_000, default: 1000, description: 'Pause before the second attempt, in milliseconds; doubled for each further one' }),
  maxBackoffMs: Type.Integer({ minimum: 0, maximum: 24 * 3_600_000, default: 300_000, description: 'Longest pause, in milliseconds' }),
}, { $id: 'TaskRetry', additionalProperties: false })
export type TaskRetry = Static<typeof TaskRetry>

export const maxDelayMs = 365 * 24 * 3_600_000
export const maxBatchTasks = 1000

/** What a task asks for in the same words as a sandbox. */
const { image, entrypoint, env, workingDir, user, resources, labels, runtime, hostname, network, imagePull } = SandboxCreate.properties

export const TaskCreate = Type.Object({
  image,
  entrypoint,
  env,
  workingDir,
  user,
  resources,
  requests: Type.Optional(Type.Partial(TaskRequests, { $id: undefined, additionalProperties: false })),
  labels,
  timeoutMs: Type.Optional(Type.Integer({ minimum: 1, maximum: maxTimeoutMs, description: 'End an attempt this long after its start, in milliseconds; it has then failed with timed_out' })),
  idleTimeoutMs: Type.Optional(Type.Integer({ minimum: 1, maximum: maxTimeoutMs, description: 'End an attempt after this long without an exec in its sandbox, in milliseconds' })),
  runtime,
  hostname,
  network,
  imagePull,
  pool: Type.Optional(PoolName),
  priority: Type.Optional(Type.Integer({ minimum: -100, maximum: 100, default: 0, description: 'Higher ones go first' })),
  delayMs: Type.Optional(Type.Integer({ minimum: 0, maximum: maxDelayMs, default: 0, description: 'Not to be begun before this long from now, in milliseconds' })),
  maxAttempts: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 1, description: 'How often the command may be run until it ends with 0' })),
  retry: Type.Optional(Type.Partial(TaskRetry, { $id: undefined, additionalProperties: false })),
  outputs: Type.Optional(Type.Array(OutputSpec, { maxItems: 8, description: 'Where its output goes beside its log; without it where the host sends that of all tasks' })),
}, { $id: 'TaskCreate', additionalProperties: false })
export type TaskCreate = Static<typeof TaskCreate>

export const TaskBatch = Type.Object({
  tasks: Type.Array(TaskCreate, { minItems: 1, maxItems: maxBatchTasks, description: 'All of them are queued, or none' }),
}, { $id: 'TaskBatch', additionalProperties: false })
export type TaskBatch = Static<typeof TaskBatch>

export const Task = Type.Object({
  id: TaskId,
  status: TaskStatus,
  image: Type.String(),
  entrypoint: Type.Optional(Type.Array(Type.String())),
  env: Type.Record(Type.String(), Type.String()),
  workingDir: Type.Optional(Type.String()),
  user: Type.Optional(Type.String()),
  resources: Resources,
  requests: TaskRequests,
  labels: Type.Record(Type.String(), Type.String()),
  timeoutMs: Type.Optional(Type.Integer()),
  idleTimeoutMs: Type.Optional(Type.Integer()),
  runtime: Type.Optional(Type.String()),
  hostname: Type.Optional(Type.String()),
  network: Type.Optional(NetworkRequest),
  imagePull: Type.Optional(PullPolicy),
  pool: Type.String(),
  priority: Type.Integer(),
  maxAttempts: Type.Integer(),
  retry: TaskRetry,
  attempt: Type.Integer({ description: 'Number of the attempt that is under way, was the last, or comes next' }),
  attempts: Type.Array(TaskAttempt, { description: 'In their order; what was given back without counting is among them' }),
  sandboxId: Type.Optional(Type.String({ description: 'The sandbox of the attempt under way' })),
  createdAt: Timestamp,
  availableAt: Type.Optional(Timestamp),
  scheduledAt: Type.Optional(Timestamp),
  startedAt: Type.Optional(Timestamp),
  endedAt: Type.Optional(Timestamp),
  cancelRequestedAt: Type.Optional(Timestamp),
  end: Type.Optional(TaskEnd),
  isDeadLetter: Type.Optional(Type.Boolean({ description: 'true: failed for good after several attempts, or without ever having been run' })),
  hostLabels: Type.Optional(Type.Record(Type.String(), Type.String(), { description: 'Only hosts that have all of these labels take it' })),
  fleet: Type.Optional(Type.Object({
    taskId: Type.String({ description: 'Its id there' }),
    attempt: Type.Integer({ description: 'Which attempt this is there' }),
    externalId: Type.Optional(Type.String({ description: 'The id by which its producer knows it' })),
  }, { additionalProperties: false, description: 'On a host: this is a delivery of a task of the fleet. On a gateway: only the id of a foreign producer' })),
  outputs: Type.Array(OutputView),
  outputStates: Type.Optional(Type.Array(OutputState, { description: 'How far each output has come; only of a single task, and only once it has begun' })),
}, { $id: 'Task', additionalProperties: false })
export type Task = Static<typeof Task>

export const TaskPage = Page(Task, 'TaskPage')
export type TaskPage = Static<typeof TaskPage>

export const TaskBatchResult = Type.Object({
  items: Type.Array(Task, { description: 'In the order of the request' }),
}, { $id: 'TaskBatchResult', additionalProperties: false })
export type TaskBatchResult = Static<typeof TaskBatchResult>

/** How many tasks of a pool are how far. */
export const PoolStats = Type.Object({
  pool: Type.String(),
  isServed: Type.Boolean({ description: 'This host takes tasks of this pool' }),
  delayed: Type.Integer({ description: 'pending, but not yet due' }),
  pending: Type.Integer({ description: 'Due, and waiting for room or their turn' }),
  scheduled: Type.Integer(),
  running: Type.Integer(),
  deadLetters: Type.Integer(),
  oldestPendingMs: Type.Optional(Type.Integer({ description: 'How long the one that waits longest has been due' })),
}, { $id: 'PoolStats', additionalProperties: false })
export type PoolStats = Static<typeof PoolStats>

const Room = Type.Object({ cpuMillis: Type.Integer(), memoryBytes: Type.Integer() }, { additionalProperties: false })

/** The queue, and the room that this host has. */
export const QueueStatus = Type.Object({
  pools: Type.Array(PoolStats),
  capacity: { ...Room, description: 'What tasks may ask for together' },
  free: { ...Room, description: 'What is left of it; sandboxes that belong to no task count too' },
  heldBack: Type.Optional(Words(['memory_pressure', 'memory_low', 'disk_low', 'stopping'], { description: 'Why nothing is begun, whatever is free' })),
}, { $id: 'QueueStatus', additionalProperties: false })
export type QueueStatus = Static<typeof QueueStatus>
