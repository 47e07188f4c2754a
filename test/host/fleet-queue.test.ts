import { testTaskQueue } from '../contract/task-queue-contract.ts'
import { buildFleetQueue } from '../support/fleet-queue-rig.ts'

testTaskQueue('FleetTaskQueue', (t, settings) => buildFleetQueue(t, settings))
