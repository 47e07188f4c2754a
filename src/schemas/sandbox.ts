/** A sandbox on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { ImageName, PullPolicy, RegistryCredentials } from './image.ts'
import { Network, NetworkRequest } from './network.ts'
import { Page, SandboxId, StringMap, Timestamp, Words, noNul, pattern } from './wire.ts'

const GiB = 1024 ** 3

export const maxTimeoutMs = 365 * 24 * 3600 * 1000

export const Labels = StringMap({
  maxProperties: 64,
  keyPattern: pattern('^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$', 'names have at most 63 letters, digits and . _ / -, and begin and end with a letter or digit'),
  maxValueLength: 256,
  description: 'Your own key-value pairs, to find the sandbox by; at most 64',
})

export const Env = StringMap({
  maxProperties: 512,
  keyPattern: pattern('^[A-Za-z_][A-Za-z0-9_.-]{0,254}$', 'names have at most 255 letters, digits and _ . -, and do not begin with a digit'),
  maxValueLength: 128 * 1024,
  maxTotalBytes: 1024 ** 2,
  description: 'Environment variables; nothing of the daemon\'s own environment is passed in',
})

export const Argv = Type.Array(Type.String({ maxLength: 128 * 1024, pattern: noNul }), {
  minItems: 1,
  maxItems: 4096,
  'x-maxTotalBytes': 1024 ** 2,
  description: 'Program and arguments; no shell is involved',
  examples: [['sh', '-c', 'echo hello']],
})

export const User = Type.String({
  minLength: 1,
  maxLength: 128,
  pattern: pattern('^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$', 'must be uid, uid:gid, name or name:group'),
  description: 'uid, uid:gid, name or name:group; names are looked up in the image',
  examples: ['1000:1000'],
})

export const AbsolutePath = Type.String({ minLength: 1, maxLength: 4096, pattern: pattern('^/[^\\u0000]*$', 'must be an absolute path (it begins with /) without NUL characters'), description: 'Absolute path inside the sandbox' })

export const Resources = Type.Object({
  cpuMillis: Type.Integer({ minimum: 10, maximum: 32_000, default: 2000, description: 'CPU time, in thousandths of a core' }),
  memoryBytes: Type.Integer({ minimum: 64 * 1024 ** 2, maximum: 128 * GiB, default: 2 * GiB, description: 'Memory, in bytes; what the runtime needs for itself comes on top (gVisor: 64 MiB)' }),
  pids: Type.Integer({ minimum: 8, maximum: 32_768, default: 512, description: 'Processes and threads of each user inside the sandbox' }),
  diskBytes: Type.Optional(Type.Integer({ minimum: 16 * 1024 ** 2, maximum: 1024 * GiB, description: 'Space for files written inside, in bytes; without it the host\'s disk is the limit' })),
}, { $id: 'Resources', additionalProperties: false })
export type Resources = Static<typeof Resources>

export const SandboxStatus = Words([
  'pending', 'creating', 'created', 'running', 'paused', 'stopping', 'stopped', 'failed',
], { description: 'pending → creating → created → running ⇄ paused → stopping → stopped | failed' })
export type SandboxStatus = Static<typeof SandboxStatus>

export const endReasons = [
  'exited', 'signaled', 'out_of_memory', 'timed_out', 'idle', 'requested', 'drained', 'setup_failed', 'runtime_crashed',
  'host_restarted', 'image_lost', 'lost',
] as const

export const EndReason = Words(endReasons, { description: 'Why the sandbox ended. image_lost: what had not been fetched of its image cannot be read any more, because the image server died with all who held its connection' })
export type EndReason = Static<typeof EndReason>

/** How a sandbox ended. */
export const SandboxEnd = Type.Object({
  reason: EndReason,
  at: Timestamp,
  exitCode: Type.Optional(Type.Integer({ description: 'Exit code of the main process; 128 + n when signal n ended it' })),
  signal: Type.Optional(Type.String({ description: 'Name of the signal that ended the main process' })),
  step: Type.Optional(Type.String({ description: 'setup_failed: the step that failed' })),
  message: Type.Optional(Type.String()),
  peakMemoryBytes: Type.Optional(Type.Integer({ description: 'Highest memory use seen, in bytes' })),
}, { $id: 'SandboxEnd', additionalProperties: false })
export type SandboxEnd = Static<typeof SandboxEnd>

export const StepTiming = Type.Object({
  step: Type.String(),
  durationMs: Type.Number(),
}, { $id: 'StepTiming', additionalProperties: false })
export type StepTiming = Static<typeof StepTiming>

/** A host resource whose release failed; the reconciler tries again. */
export const Leak = Type.Object({
  step: Type.String(),
  message: Type.String(),
}, { $id: 'Leak', additionalProperties: false })
export type Leak = Static<typeof Leak>

export const SandboxCreate = Type.Object({
  image: ImageName,
  entrypoint: Type.Optional(Argv),
  env: Type.Optional(Env),
  workingDir: Type.Optional(AbsolutePath),
  user: Type.Optional(User),
  resources: Type.Optional(Type.Partial(Resources, { $id: undefined, additionalProperties: false })),
  labels: Type.Optional(Labels),
  timeoutMs: Type.Optional(Type.Integer({ minimum: 1, maximum: maxTimeoutMs, description: 'Stop the sandbox this long after its start, in milliseconds; paused time does not count' })),
  idleTimeoutMs: Type.Optional(Type.Integer({ minimum: 1, maximum: maxTimeoutMs, description: 'Stop the sandbox after this long without an exec and without anybody at a terminal, in milliseconds' })),
  runtime: Type.Optional(Type.String({ minLength: 1, maxLength: 64, pattern: pattern('^[a-z0-9][a-z0-9._-]*$', 'must be the name of a runtime, such as runsc or runc'), description: 'OCI runtime: runsc (gVisor, the default) or runc' })),
  hostname: Type.Optional(Type.String({ pattern: pattern('^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$', 'must be a host name: at most 63 of a-z, 0-9 and -, neither first nor last a -'), description: 'Host name inside' })),
  start: Type.Optional(Type.Boolean({ default: true, description: 'false: create it only; POST …/start starts it' })),
  network: Type.Optional(NetworkRequest),
  imagePull: Type.Optional(PullPolicy),
  registryCredentials: Type.Optional(RegistryCredentials),
}, { $id: 'SandboxCreate', additionalProperties: false })
export type SandboxCreate = Static<typeof SandboxCreate>

export const SandboxUpdate = Type.Object({
  labels: Type.Optional(Labels),
  timeoutMs: Type.Optional(Type.Integer({ minimum: 1, maximum: maxTimeoutMs, description: 'Move the deadline to this long from now; a deadline is only ever extended' })),
}, { $id: 'SandboxUpdate', additionalProperties: false, minProperties: 1 })
export type SandboxUpdate = Static<typeof SandboxUpdate>

export const Sandbox = Type.Object({
  id: SandboxId,
  status: SandboxStatus,
  image: Type.Object({
    reference: Type.String(),
    digest: Type.Optional(Type.String()),
  }, { additionalProperties: false }),
  entrypoint: Type.Optional(Type.Array(Type.String(), { description: 'Absent: the sandbox idles under its init, ready for execs' })),
  env: Type.Record(Type.String(), Type.String()),
  workingDir: Type.String(),
  user: Type.String(),
  resources: Resources,
  labels: Type.Record(Type.String(), Type.String()),
  runtime: Type.String(),
  hostname: Type.String(),
  network: Network,
  taskId: Type.Optional(Type.String({ description: 'The task that it was made for, and with whose end it is deleted' })),
  timeoutMs: Type.Optional(Type.Integer()),
  idleTimeoutMs: Type.Optional(Type.Integer()),
  deadlineAt: Type.Optional(Timestamp),
  idleDeadlineAt: Type.Optional(Timestamp),
  createdAt: Timestamp,
  startedAt: Type.Optional(Timestamp),
  deletedAt: Type.Optional(Timestamp),
  end: Type.Optional(SandboxEnd),
  timings: Type.Array(StepTiming, { description: 'How long each set-up step took' }),
  leaks: Type.Array(Leak, { description: 'Host resources whose release failed and is being tried again' }),
}, { $id: 'Sandbox', additionalProperties: false })
export type Sandbox = Static<typeof Sandbox>

export const SandboxPage = Page(Sandbox, 'SandboxPage')
export type SandboxPage = Static<typeof SandboxPage>

export const SandboxStop = Type.Object({
  force: Type.Optional(Type.Boolean({ default: false, description: 'SIGKILL at once' })),
  graceMs: Type.Optional(Type.Integer({ minimum: 0, maximum: 600_000, default: 10_000, description: 'How long after SIGTERM before SIGKILL, in milliseconds' })),
}, { $id: 'SandboxStop', additionalProperties: false })
export type SandboxStop = Static<typeof SandboxStop>
