import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { test, type TestContext } from 'node:test'
import { FleetNews, type QueueListener } from '../../../src/services/fleet-queue/fleet-news.ts'
import type { RedisConnection } from '../../../src/services/redis/redis-types.ts'

/** Hosts that hear of one pool, over subscriptions that a test speaks on. */
function hear (t: TestContext, hosts: number, listener: (host: number) => QueueListener): (text: string) => void {
  const clients = Array.from({ length: hosts }, (_, host) => {
    const client = Object.assign(new EventEmitter(), { status: 'connecting', disconnect () {} })
    const redis = { another: () => client } as unknown as RedisConnection
    const news = new FleetNews({ redis, base: 'b:', pools: ['p'], onError: error => { throw error }, onWatched () {}, onDue () {} })
    t.after(() => { news.close() })
    news.watchQueue(listener(host))
    return client
  })
  return text => { for (const client of clients) client.emit('message', 'b:news:p', text) }
}

test('of a thousand hosts that hear of one task few go to look at once, and each but once however much is told', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const looks = new Map<number, number>()
  const say = hear(t, 1000, host => () => { looks.set(host, (looks.get(host) ?? 0) + 1) })
  for (let round = 0; round < 3; round++) say('available 1 1000')
  assert.ok(looks.size < 50, `${looks.size} at once`)
  t.mock.timers.tick(50)
  assert.ok(looks.size < 600, `${looks.size} soon`)
  t.mock.timers.tick(500)
  assert.equal(looks.size, 1000)
  assert.ok([...looks.values()].reduce((sum, count) => sum + count) < 1100, 'what was told meanwhile is looked for together')
})

test('one host alone is told at once, and of a request to cancel every host is', t => {
  const news: unknown[] = []
  const say = hear(t, 2, () => one => { news.push(one) })
  say('available 1 1')
  say('cancel tsk_a')
  const both = [{ kind: 'available' }, { kind: 'available' }, { kind: 'cancel', taskId: 'tsk_a' }, { kind: 'cancel', taskId: 'tsk_a' }]
  assert.deepEqual(news, both)
})
