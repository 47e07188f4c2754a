import { after, before } from 'node:test'
import { testQueueDurability } from '../contract/queue-durability.ts'
import { testQueueModel } from '../contract/queue-model.ts'
import type { BuildQueue } from '../contract/queue-rig.ts'
import { testTaskQueue } from '../contract/task-queue-contract.ts'
import { buildFleetQueue } from '../support/fleet-queue-rig.ts'
import { RedisServer } from '../support/redis-server.ts'

let server: RedisServer
let mortal: RedisServer
const releases: Array<() => Promise<void>> = []
const teardown = { after: (release: () => Promise<void>) => { releases.push(release) } }
before(async () => {
  server = await RedisServer.start(teardown, { args: ['--appendfsync', 'no'] })
  mortal = await RedisServer.start(teardown)
})
after(async () => { for (const release of releases) await release() })

testTaskQueue('FleetTaskQueue', (t, settings) => buildFleetQueue(t, { ...settings, server }))

const buildMortal: BuildQueue = (t, settings) => buildFleetQueue(t, { ...settings, server: mortal, killsRedis: true })
testQueueDurability('FleetTaskQueue whose Redis is killed', buildMortal)
testQueueModel('FleetTaskQueue whose Redis is killed', buildMortal)
