import { testTaskQueue } from '../../contract/task-queue-contract.ts'
import { buildStore } from './task-store-fixture.ts'

testTaskQueue('LocalTaskQueue', async (t, settings) => buildStore(t, settings))
