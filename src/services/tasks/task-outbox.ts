/** News about tasks that the event log does not have yet, or may not have yet. */
export class TaskOutbox {
}
