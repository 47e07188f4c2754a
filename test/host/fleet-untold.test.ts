/** Tasks of foreign producers that end in the queue, where no host tells it, on a real Redis. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pino } from 'pino'
import { pollUntil } from '../../src/lib/poll.ts'
import { UntoldEnds } from '../../src/services/fleet-wire/untold-ends.ts'
import { WireIntake } from '../../src/services/fleet-wire/wire-intake.ts'
import { WireReports } from '../../src/services/fleet-wire/wire-reports.ts'
import { toNewTask } from '../../src/services/fleet-wire/wire-task.ts'
import type { NewTask } from '../../src/services/tasks/task-record.ts'
import { leaseMs, newTask, plenty } from '../contract/queue-rig.ts'
import { buildFleetQueue, type FleetQueueRig } from '../support/fleet-queue-rig.ts'

const logger = pino({ level: 'silent' })
const withinMs = 20_000
const retentionMs = 60_000

function foreignTask (externalId: string): NewTask {
  return toNewTask(JSON.stringify({ external_id: externalId, image: 'busybox', entrypoint: ['true'] }), { pool: 'default' }) as NewTask
}

function wireOf ({ redis }: FleetQueueRig) {
  const { client, prefix } = redis
  const read = async (kind: string, id: string) => JSON.parse(await client.get(`${prefix}:${kind}:${id}`) ?? '{}') as Record<string, unknown>
  return {
    stateOf: async (id: string) => await read('task_state', id),
    resultOf: async (id: string) => await read('task_result', id),
    inFlight: async () => await client.smembers(`${prefix}:task_inflight:default`),
    untold: async () => (await client.smembers(`${prefix}:{berth}:untold`)).sort(),
  }
}

const claimAs = async ({ queue }: FleetQueueRig, owner: string, pool = 'default') => await queue.claim({ owner, pools: [pool], limit: 9, leaseMs, room: plenty, capacity: plenty })

test('a task whose leases lapse too often ends as failed on the wire, whoever takes it back, and whatever dies meanwhile', async t => {
  const rig = await buildFleetQueue(t, { maxReturns: 2, retentionMs })
  const { table } = rig.fleet
  const { stateOf, resultOf, inFlight, untold } = wireOf(rig)
  const reports = new WireReports({ redis: rig.redis })
  const [{ id } = { id: '' }] = await rig.queue.push([foreignTask('theirs')])
  await rig.queue.push([newTask({ id: 'tsk_0000000000000000own0' })])
  for (const owner of ['hst_1', 'hst_2']) {
    const claims = await claimAs(rig, owner)
    assert.equal(claims.length, 2)
    for (const { task } of claims) await reports.scheduled(task, { workerId: owner })
    await rig.advance(leaseMs + 1)
    if (owner === 'hst_1') assert.deepEqual(await untold(), [])
  }
  // Its host has nothing to do with the pool of the task.
  await claimAs(rig, 'hst_3', 'elsewhere')
  assert.deepEqual([(await table.get(id))?.status, (await stateOf('theirs'))['status'], await inFlight()], ['failed', 'scheduled', ['theirs']])
  assert.deepEqual(await untold(), [`${id} 2`], 'one of the fleet\'s own has no producer who is to be told')

  await rig.advance(retentionMs)
  assert.equal(await table.prune(), 1)
  assert.ok(await table.get(id), 'what is untold is not forgotten')

  let tries = 0
  const ends = new UntoldEnds({
    redis: rig.redis,
    table,
    logger,
    reports: {
      async ended (record) {
        await reports.ended(record)
        if (++tries === 1) throw new Error('died before it could say so')
      },
    },
  })
  const intake = new WireIntake({ redis: rig.redis, queue: rig.queue, pools: ['elsewhere'], reports, untold: ends, logger, blockMs: 100 })
  t.after(() => intake.close())
  intake.start()
  assert.ok(await pollUntil(async () => (await untold()).length === 0, withinMs))
  assert.equal(tries, 2)
  const state = await stateOf('theirs')
  assert.deepEqual([state['status'], state['exit_code'], state['attempt'], state['fence']], ['failed', -1, 1, 2])
  assert.match(String(state['error']), /handed out 2 times .* the lease of host hst_2 lapsed/)
  assert.deepEqual([(await resultOf('theirs'))['exit_code'], await inFlight()], [-1, []])
  await rig.advance(retentionMs)
  assert.equal(await table.prune(), 1)
})

test('a cancel that nobody lived to tell is told, and one that was queued again is not', async t => {
  const rig = await buildFleetQueue(t)
  const { stateOf, untold } = wireOf(rig)
  const ends = new UntoldEnds({ redis: rig.redis, table: rig.fleet.table, reports: new WireReports({ redis: rig.redis }), logger })
  const names = ['cancelled', 'retried', 'removed', 'told']
  const records = await rig.queue.push(names.map(foreignTask))
  const ended = []
  for (const { id } of records) ended.push(await rig.queue.cancel(id))
  assert.deepEqual(await untold(), records.map(({ id }) => `${id} 0`).sort())
  await rig.queue.retry(records[1]!.id)
  await rig.fleet.table.remove(records[2]!.id)
  await ends.tellOf(ended[3]!)
  assert.equal((await untold()).length, 2)
  await ends.tell()
  assert.deepEqual(await untold(), [])
  assert.deepEqual(await Promise.all(names.map(async name => (await stateOf(name))['status'])), ['cancelled', undefined, undefined, 'cancelled'])
})
