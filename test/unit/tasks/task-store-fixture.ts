import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DatabaseSync } from 'node:sqlite'
import type { TestContext } from 'node:test'
import { openTaskDatabase } from '../../../src/services/database.ts'
import { openTaskStore, type TaskQueueOptions, type TaskStore } from '../../../src/services/tasks/task-store.ts'
import { queueDefaults, type QueueRig } from '../../contract/queue-rig.ts'

export interface StoreRig extends QueueRig {
  dir: string
  readonly store: TaskStore
  readonly db: DatabaseSync
  reopen: (options?: Partial<TaskQueueOptions>) => Promise<void>
}

const begin = Date.parse('2026-03-01T00:00:00Z')

/** A store on a clock that stands still until it is told to go on. */
export function buildStore (t: TestContext, settings: Partial<TaskQueueOptions> = {}): StoreRig {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: begin })
  const dir = mkdtempSync(join(tmpdir(), 'berth-tasks-'))
  const path = join(dir, 'tasks.db')
  let options: TaskQueueOptions = { ...queueDefaults, ...settings }
  let db = openTaskDatabase(path)
  let store = openTaskStore({ db, options })
  t.after(async () => {
    await store.close()
    rmSync(dir, { recursive: true })
  })
  return {
    dir,
    get store () { return store },
    get queue () { return store.queue },
    get db () { return db },
    now: () => Date.now(),
    async advance (ms) {
      t.mock.timers.tick(ms)
      await store.queue.stats()
    },
    async reopen (changes = {}) {
      await store.close()
      options = { ...options, ...changes }
      db = openTaskDatabase(path)
      store = openTaskStore({ db, options })
    },
  }
}
