/** Tasks of a fleet on the real runtime and a real Redis: taken, run, reported, whoever is killed meanwhile. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { randomId } from '../../src/lib/id.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import type { TaskPage } from '../../src/schemas/task.ts'
import { FleetLogBuffer } from '../../src/services/fleet-wire/fleet-log-buffer.ts'
import { openFleetQueue } from '../../src/services/fleet-queue/fleet-queue.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import type { TaskRecord } from '../../src/services/tasks/task-record.ts'
import { newTask } from '../contract/queue-rig.ts'
import { RedisServer } from '../support/redis-server.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const prefix = 'berth-deliveries'
const withinMs = 60_000
const MiB = 1024 ** 2

test('tasks of a fleet', async t => {
  const server = await RedisServer.start(t)
  const daemon = await TestDaemon.start(t, { args: ['--redis', server.url], env: { BERTH_REDIS_PREFIX: prefix, BERTH_TASK_CPU_OVERCOMMIT: '8' } })
  const redis = await openRedis({ url: server.url, prefix, passwordFile: '', caFile: '', certFile: '', keyFile: '' })
  const fleet = openFleetQueue({ redis, fairLabel: 'tenant', labelLimits: [] })
  t.after(async () => {
    await fleet.close()
    await redis.close()
  })

  const push = async (script: string): Promise<string> => {
    const { spec } = newTask({ id: randomId('tsk'), requests: { cpuMillis: 500, memoryBytes: 64 * MiB } })
    const resources = { cpuMillis: 500, memoryBytes: 64 * MiB, pids: 64 }
    const [record] = await fleet.queue.push([{ id: randomId('tsk'), delayMs: 0, spec: { ...spec, resources, entrypoint: ['sh', '-c', script] } }])
    return record!.id
  }
  const reaches = async (id: string, isSo: (record: TaskRecord) => boolean): Promise<TaskRecord> => {
    let record: TaskRecord | undefined
    const isReached = await pollUntil(async () => {
      record = await fleet.table.get(id).catch(() => undefined)
      return record !== undefined && isSo(record)
    }, withinMs)
    assert.ok(isReached && record, `the task is ${record?.status}`)
    return record
  }
  const hasEnded = ({ endedAt }: TaskRecord) => endedAt !== undefined

  await t.test('one is run in a sandbox here, and its end and its output are in the fleet', async () => {
    const id = await push('echo out; exit 3')
    const { status, end, attempts } = await reaches(id, hasEnded)
    assert.deepEqual([status, end?.reason, end?.exitCode, attempts.length], ['failed', 'exited', 3, 1])
    assert.match(attempts[0]?.sandboxId ?? '', /^sbx_/)
    const buffer = new FleetLogBuffer({ redis })
    const output = async () => (await buffer.read(id)).entries.map(({ data }) => data).join('')
    assert.ok(await pollUntil(async () => (await output()).includes('out'), withinMs))
    buffer.close()
    const { body } = await daemon.request<TaskPage>('GET', '/v1/tasks')
    assert.deepEqual(body.items.map(({ fleet, status }) => [fleet?.taskId, status]), [[id, 'failed']])
  })

  await t.test('one that runs while the daemon and Redis are killed is run once, and told of when Redis is back', async () => {
    const id = await push('sleep 2; exit 5')
    await reaches(id, ({ status }) => status === 'running')
    await server.kill()
    await daemon.restart('SIGKILL')
    const isEnded = async () => (await daemon.request<TaskPage>('GET', '/v1/tasks')).body.items.some(({ fleet, end }) => fleet?.taskId === id && end?.exitCode === 5)
    assert.ok(await pollUntil(isEnded, withinMs), 'it comes to its end without Redis')
    const [local] = (await daemon.request<TaskPage>('GET', '/v1/tasks')).body.items
    const refused = await daemon.request<{ code?: string }>('DELETE', `/v1/tasks/${local!.id}`)
    assert.deepEqual([refused.status, refused.body.code], [409, 'not_reported'])
    await server.run()
    const { end, attempts } = await reaches(id, hasEnded)
    assert.deepEqual([end?.exitCode, attempts.length], [5, 1])
    assert.ok(await pollUntil(async () => (await daemon.request('DELETE', `/v1/tasks/${local!.id}`)).status === 204, withinMs), 'what has been told may go')
  })

  await t.test('one that is cancelled in the fleet is ended here', async () => {
    const id = await push('sleep 600')
    await reaches(id, ({ status }) => status === 'running')
    await fleet.queue.cancel(id)
    assert.equal((await reaches(id, hasEnded)).status, 'cancelled')
  })
})
