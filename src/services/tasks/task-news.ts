import type { EventLog } from '../events/event-log.ts'
import type { TaskOutbox } from './task-outbox.ts'

/** Takes news from the outbox to the event log, each exactly once. */
export class TaskNews {
  constructor (options: { outbox: TaskOutbox, events: EventLog, onError?: (error: unknown) => void }) {}
  /** Begins with what an earlier daemon left. */
  start (): void { throw new Error('not built yet') }
  /** Takes over what there is, as well as it can; never fails. */
  close (): Promise<void> { throw new Error('not built yet') }
}
