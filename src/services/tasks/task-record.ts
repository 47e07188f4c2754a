/** A task as its queue keeps it. */
import type { OutputSpec } from '../../schemas/output.ts'
import type { Resources, StepTiming } from '../../schemas/sandbox.ts'
import type { TaskAttempt, TaskCreate, TaskEnd, TaskRequests, TaskRetry, TaskStatus } from '../../schemas/task.ts'

/** Where a task of a fleet comes from. It is queued on this host under an id of its own for each delivery. */
export interface FleetOrigin {
  /** The task's id in the fleet. */
  taskId: string
  /** Number of the delivery. */
  fence: number
  attempt: number
  /** The id by which its producer knows it, where that is another. */
  externalId?: string
}

/** What is to be run, with every default filled in; never changed once it is queued. */
export interface TaskSpec extends Omit<TaskCreate, 'resources' | 'requests' | 'labels' | 'pool' | 'priority' | 'delayMs' | 'maxAttempts' | 'retry' | 'outputs' | 'env'> {
  env: Record<string, string>
  resources: Resources
  requests: TaskRequests
  labels: Record<string, string>
  pool: string
  priority: number
  maxAttempts: number
  retry: TaskRetry
  outputs: OutputSpec[]
  /** Only hosts that have all of these labels; of tasks of a fleet. */
  hostLabels?: Record<string, string>
  fleet?: FleetOrigin
  /** The trace that it belongs to, as the header of W3C Trace Context has it. */
  traceparent?: string
}

/** What is handed to a queue. */
export interface NewTask {
  id: string
  spec: TaskSpec
  /** Milliseconds from now before which it is not handed out. */
  delayMs: number
  /** A second push with the same key answers the task of the first. */
  idempotencyKey?: string
}

/** One delivery of a task. `fence` grows with each, over all deliveries of this task. */
export interface AttemptRecord extends TaskAttempt {
  fence: number
}

/** A change of status, with why where there is a why. */
export interface StatusChange {
  at: string
  status: TaskStatus
  attempt: number
  reason?: string
  exitCode?: number
  message?: string
}

/**
 * How much of a delivery the fleet has been told, durably: nothing, that it was started, how it ended (the queue alone), everything.
 * abandoned: it is somebody else's, and nothing is told.
 */
export type ReportStage = 'none' | 'started' | 'settled' | 'done' | 'abandoned'

export interface TaskRecord {
  id: string
  spec: TaskSpec
  status: TaskStatus
  /** Of the attempt that is under way, was the last, or comes next. */
  attempt: number
  attempts: AttemptRecord[]
  /** Every change of status so far, oldest first; written with the change itself, and only ever added to. */
  history: StatusChange[]
  /** All ISO 8601. */
  createdAt: string
  availableAt: string
  endedAt?: string
  cancelRequestedAt?: string
  end?: TaskEnd
  isDeadLetter?: boolean
  /** Of deliveries of a fleet, on their host. */
  report?: ReportStage
}

/** What a delivery learns once its sandbox is there. */
export interface StartFacts {
  sandboxId: string
  logCursor: string
  startedAt: string
  timings: StepTiming[]
}
