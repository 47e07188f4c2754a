/** The tasks of this host on SQLite: one connection and one group commit, seen as a queue, as a table, and as news. */
import type { DatabaseSync } from 'node:sqlite'
import { LocalTaskQueue } from './local-task-queue.ts'
import { TaskDeliveries } from './task-deliveries.ts'
import { TaskLedger, type TaskQueueOptions } from './task-ledger.ts'
import type { TaskOutbox } from './task-outbox.ts'
import { TaskTable } from './task-table.ts'

export type { TaskQueueOptions } from './task-ledger.ts'

export interface TaskStore {
  queue: LocalTaskQueue
  table: TaskTable
  deliveries: TaskDeliveries
  outbox: TaskOutbox
  /** Carries out what was asked for already, refuses what comes later, and closes the database. */
  close: () => Promise<void>
}

/** `db`: as opened by openTaskDatabase. */
export function openTaskStore ({ db, options }: { db: DatabaseSync, options: TaskQueueOptions }): TaskStore {
  const ledger = new TaskLedger(db, options)
  settleScheme(db, ledger)
  let isClosed = false
  return {
    queue: new LocalTaskQueue(ledger, { maxReturns: options.maxReturns }),
    table: new TaskTable(ledger),
    deliveries: new TaskDeliveries(ledger),
    outbox: ledger.outbox,
    close: async () => {
      if (isClosed) return
      isClosed = true
      await ledger.close()
      db.close()
    },
  }
}

/** Names the outbox once, and sorts tasks into lanes anew where the labels that make up lanes are others than before. */
function settleScheme (db: DatabaseSync, { lanes, outbox, rows }: TaskLedger): void {
  db.exec('BEGIN IMMEDIATE')
  try {
    if (rows.prepare("SELECT value FROM task_store WHERE name = 'origin'").get() === undefined) outbox.beginOrigin()
    const scheme = rows.prepare("SELECT value FROM task_store WHERE name = 'lanes'").get()?.value
    if (scheme !== lanes.scheme) {
      const update = rows.prepare('UPDATE tasks SET lane = ? WHERE seq = ? AND lane <> ?')
      for (const row of rows.prepare('SELECT seq, spec FROM task_specs').iterate()) {
        const lane = lanes.keyOf(JSON.parse(String(row.spec)) as Parameters<typeof lanes.keyOf>[0])
        update.run(lane, Number(row.seq), lane)
      }
      rows.prepare("INSERT OR REPLACE INTO task_store (name, value) VALUES ('lanes', ?)").run(lanes.scheme)
    }
    db.exec('COMMIT')
  } catch (error) {
    if (db.isTransaction) db.exec('ROLLBACK')
    throw error
  }
}
