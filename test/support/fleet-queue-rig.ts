/** The queue of a fleet on a real Redis, and on a clock that stands still until it is told to go on. */
import { setImmediate } from 'node:timers/promises'
import type { TestContext } from 'node:test'
import { openFleetQueue } from '../../src/services/fleet-queue/fleet-queue.ts'
import type { FleetQueue, FleetQueueOptions } from '../../src/services/fleet-queue/fleet-queue-types.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import type { RedisConnection } from '../../src/services/redis/redis-types.ts'
import { queueDefaults, type QueueRig } from '../contract/queue-rig.ts'
import { RedisServer } from './redis-server.ts'

export interface FleetQueueRig extends QueueRig {
  readonly fleet: FleetQueue
  readonly redis: RedisConnection
  readonly server: RedisServer
  /** Another process's. */
  open: (options?: Partial<FleetQueueOptions>) => Promise<FleetQueue>
  /** Lets time pass in which nobody is there. */
  skip: (ms: number) => void
}

export interface FleetQueueRigOptions extends Partial<FleetQueueOptions> {
  server?: RedisServer
  /** Kills Redis and starts it again whenever the queue is opened again. */
  killsRedis?: boolean
}

const begin = Date.parse('2026-03-01T00:00:00Z')
/** Shorter than an absence (ground.lua). */
const stepMs = 2500

export async function openTestRedis (url: string, prefix = 'berth-test'): Promise<RedisConnection> {
  return await openRedis({ url, prefix, passwordFile: '', caFile: '', certFile: '', keyFile: '' })
}

export async function buildFleetQueue (t: TestContext, { server: given, killsRedis = false, ...settings }: FleetQueueRigOptions = {}): Promise<FleetQueueRig> {
  let now = begin
  const server = given ?? await RedisServer.start(t)
  const opened: Array<() => Promise<void>> = []
  const prefix = `berth-${Math.random().toString(36).slice(2)}`
  const open = async (options: Partial<FleetQueueOptions> = {}): Promise<[FleetQueue, RedisConnection]> => {
    const redis = await openTestRedis(server.url, prefix)
    const fleet = openFleetQueue({ redis, ...queueDefaults, now: () => now, onError: error => { throw error }, ...settings, ...options })
    opened.push(async () => {
      await fleet.close()
      await redis.close()
    })
    await watched(fleet)
    return [fleet, redis]
  }
  let [fleet, redis] = await open()
  t.after(async () => { await Promise.all(opened.map(close => close())) })
  // What a script tells lies in the socket before it is answered: one more answer, and it has been read; one more, and so have the answers to who heard it.
  const settle = async (): Promise<void> => {
    for (let round = 0; round < 2; round++) {
      await redis.client.ping()
      await setImmediate()
      await setImmediate()
    }
  }
  return {
    server,
    get fleet () { return fleet },
    get redis () { return redis },
    get queue () { return fleet.queue },
    now: () => now,
    skip (ms) { now += ms },
    async advance (ms) {
      for (const end = now + ms; ;) {
        now = Math.min(end, now + stepMs)
        await fleet.sweep()
        if (now >= end) break
      }
      await settle()
    },
    async reopen () {
      await opened.pop()!()
      if (killsRedis) {
        await server.kill()
        await server.run()
      }
      [fleet, redis] = await open()
    },
    open: async options => (await open(options))[0],
  }
}

/** Whoever watches from the first is told once, when the news have come to be heard. */
async function watched ({ queue }: FleetQueue): Promise<void> {
  await new Promise<void>(resolve => { queue.watch(() => { resolve() }) })
}
