/** What every TaskQueue promises. */
import type { BuildQueue } from './queue-rig.ts'
import { testQueueDurability } from './queue-durability.ts'
import { testQueueEndings } from './queue-endings.ts'
import { testQueueLeases } from './queue-leases.ts'
import { testQueueModel } from './queue-model.ts'
import { testQueueTurns } from './queue-turns.ts'

export function testTaskQueue (name: string, build: BuildQueue): void {
  testQueueTurns(name, build)
  testQueueLeases(name, build)
  testQueueEndings(name, build)
  testQueueDurability(name, build)
  testQueueModel(name, build)
}
