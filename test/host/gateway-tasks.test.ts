/** Tasks by way of a gateway, on a real host: run, told of, and followed whatever becomes of the host. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { fetch } from 'undici'
import { WebSocket } from 'ws'
import { pollUntil } from '../../src/lib/poll.ts'
import type { Task, TaskPage } from '../../src/schemas/task.ts'
import { deliveryId } from '../../src/services/tasks/delivery-id.ts'
import { startJoinedHost } from '../support/joined-host.ts'

const MiB = 1024 ** 2
const withinMs = 60_000
const counting = 'for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo "out $n"; echo "err $n" >&2; sleep 0.3; done; exit 3'
const numbers = Array.from({ length: 12 }, (_, index) => index + 1)

test('tasks of a fleet by way of its gateway', async t => {
  const { gateway, daemon, workerId } = await startJoinedHost(t, { takesTasks: true, env: { BERTH_TASK_CPU_OVERCOMMIT: '8' } })
  const authorization = `Bearer ${await gateway.makeToken('client', ['default'])}`
  const create = async (script: string, more: object = {}): Promise<Task> => {
    const resources = { cpuMillis: 500, memoryBytes: 64 * MiB }
    const made = await gateway.request<Task>('POST', '/v1/tasks', { image: 'berth/base', entrypoint: ['sh', '-c', script], resources, ...more }, { authorization })
    assert.equal(made.status, 201, made.text)
    return made.body
  }
  const wait = async (id: string, until = 'ended') => (await gateway.request<Task>('GET', `/v1/tasks/${id}/wait?timeoutMs=${withinMs}&until=${until}`)).body
  const read = async (id: string, query = '') => (await gateway.request('GET', `/v1/tasks/${id}/logs?${query}`, undefined, { authorization })).text

  await t.test('one is run, and its output comes while it runs, with how it ended', async () => {
    const task = await create('echo hello; echo trouble >&2; exit 3')
    const said = (await read(task.id, 'follow&format=ndjson')).trim().split('\n').map(line => JSON.parse(line) as { type: string, text?: string, exitCode?: number })
    assert.deepEqual(said.filter(({ type }) => type === 'line').map(({ text }) => text).sort(), ['hello', 'trouble'])
    assert.deepEqual(said.at(-1), { type: 'end', reason: 'exited', exitCode: 3 })
    const { status, attempts } = await wait(task.id)
    assert.deepEqual([status, attempts.map(attempt => attempt.workerId)], ['failed', [workerId]])
    assert.equal(await read(task.id, 'stream=stderr'), 'trouble\n')
    const socket = new WebSocket(`${gateway.url.replace(/^http/, 'ws')}/v1/tasks/${task.id}/logs/ws?stream=stdout`, ['berth.v1', `bearer.${authorization.slice('Bearer '.length)}`])
    const frames: Array<{ type: string, data?: string }> = []
    socket.on('message', data => frames.push(JSON.parse(String(data)) as { type: string }))
    await once(socket, 'close')
    assert.deepEqual(frames.map(({ type, data }) => data ?? type), ['hello\n', 'end'])
  })

  await t.test('a follower goes on through the death of the daemon, and of the gateway from its last cursor', async () => {
    const task = await create(counting)
    const seen: string[] = []
    let cursor = ''
    const follow = async (until: (text: string) => boolean) => {
      const response = await fetch(`${gateway.url}/v1/tasks/${task.id}/logs?follow&format=ndjson${cursor && `&cursor=${encodeURIComponent(cursor)}`}`, { headers: { authorization } })
      let held = ''
      for await (const chunk of response.body!) {
        const lines = (held + Buffer.from(chunk as Uint8Array).toString()).split('\n')
        held = lines.pop()!
        for (const line of lines) {
          const record = JSON.parse(line) as { type: string, text?: string, cursor?: string }
          seen.push(record.text ?? record.type)
          cursor = record.cursor ?? cursor
        }
        if (lines.some(until)) break
      }
    }
    await follow(line => line.includes('out 3'))
    await gateway.restart()
    await gateway.ready()
    const following = follow(line => line.includes('"end"'))
    assert.ok(await pollUntil(async () => seen.includes('out 5'), withinMs))
    await daemon.restart('SIGKILL')
    await following
    assert.deepEqual(seen.filter(text => text.startsWith('out')), numbers.map(n => `out ${n}`))
    assert.deepEqual(seen.filter(text => text.startsWith('err')), numbers.map(n => `err ${n}`))
    assert.deepEqual(seen.filter(text => !/^(out|err) /.test(text)), ['end'])
  })

  await t.test('what waits is cancelled at once, and what runs soon; lists show the pools of a token alone', async () => {
    const waiting = await create('true', { delayMs: 3_600_000 })
    const cancel = async (id: string) => (await gateway.request<Task>('POST', `/v1/tasks/${id}/cancel`, undefined, { authorization })).body
    assert.equal((await cancel(waiting.id)).status, 'cancelled')
    const running = await create('sleep 600')
    assert.equal((await wait(running.id, 'running')).status, 'running')
    await cancel(running.id)
    assert.equal((await wait(running.id)).status, 'cancelled')
    const other = { authorization: `Bearer ${await gateway.makeToken('read', ['gpu'])}` }
    assert.deepEqual((await gateway.request<TaskPage>('GET', '/v1/tasks', undefined, other)).body.items, [])
    assert.equal((await gateway.request('GET', `/v1/tasks/${running.id}/logs`, undefined, other)).status, 404)
  })

  await t.test('once the host is gone, its output comes from the buffer', async () => {
    const task = await create('echo one; printf "two …\\n\\nunfinished" >&2')
    const { attempts } = await wait(task.id)
    const text = await read(task.id, 'stream=stderr')
    assert.equal(text, 'two …\n\nunfinished')
    const local = deliveryId({ taskId: task.id, fence: Number(attempts[0]?.logCursor?.split('.')[0]) })
    const isShipped = async () => (await daemon.request<Task>('GET', `/v1/tasks/${local}`)).body.outputStates?.every(({ status }) => status === 'complete') === true
    assert.ok(await pollUntil(isShipped, withinMs))
    await daemon.end('SIGKILL')
    assert.ok(await pollUntil(async () => await read(task.id, 'stream=stderr') === text, withinMs))
    assert.equal(await read(task.id, 'stream=stdout&follow'), 'one\n')
  })
})
