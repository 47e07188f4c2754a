import assert from 'node:assert/strict'
import { test } from 'node:test'
import { taskIdOf, wireKeys } from '../../../src/services/fleet-wire/wire-keys.ts'
import { toNewTask, WireRefusal } from '../../../src/services/fleet-wire/wire-task.ts'
import type { NewTask } from '../../../src/services/tasks/task-record.ts'

const externalId = '0d1a4f0e-6f3c-4a57-9a57-5f2f0b8f1c11'

function take (fields: object): NewTask {
  const taken = toNewTask(JSON.stringify({ external_id: externalId, image: 'python:3.12', entrypoint: ['true'], ...fields }), { pool: 'gpu' })
  assert.ok(!(taken instanceof WireRefusal), (taken as WireRefusal).message)
  return taken
}

test('a task of a foreign producer becomes one of the queue, whatever else it says', () => {
  const taken = take({
    id: 7,
    type: 'background',
    status: 'pending',
    workspace_id: 'ws-1',
    created_by_member_id: null,
    hook_id: 'hook-9',
    entrypoint: ['sh', '-c', 'echo hi'],
    env: { A: '1' },
    resources: { cpu: 500, memory: 1024 ** 3, gpu: 0 },
    timeout_ms: 60_000,
    network_enabled: true,
    attempt: 2,
    max_attempts: 3,
    created_at: '2026-01-02T03:04:05.678901234Z',
    a_field_of_tomorrow: { deep: true },
  })
  assert.match(taken.id, /^tsk_[0-9a-v]{20}$/)
  assert.equal(taken.id, taskIdOf(externalId))
  assert.deepEqual(taken.spec, {
    image: 'python:3.12',
    entrypoint: ['sh', '-c', 'echo hi'],
    env: { A: '1' },
    resources: { cpuMillis: 500, memoryBytes: 1024 ** 3, pids: 512 },
    requests: { cpuMillis: 500, memoryBytes: 1024 ** 3 },
    labels: { workspaceId: 'ws-1', hookId: 'hook-9' },
    pool: 'gpu',
    priority: 0,
    maxAttempts: 2,
    retry: { backoffMs: 1000, maxBackoffMs: 300_000 },
    outputs: [],
    timeoutMs: 60_000,
    network: { egress: 'internet' },
    fleet: { taskId: taken.id, fence: 0, attempt: 2, externalId },
  })
})

test('what a task leaves out is filled in, and the network is the host\'s to decide', () => {
  const { spec } = take({ network_enabled: false })
  assert.deepEqual(spec.resources, { cpuMillis: 2000, memoryBytes: 2 * 1024 ** 3, pids: 512 })
  assert.deepEqual([spec.env, spec.maxAttempts, spec.network, spec.timeoutMs], [{}, 1, undefined, undefined])
})

test('a prompt alone is a turn of an agent, and only a member\'s task has a token', () => {
  const { spec } = take({ entrypoint: [], prompt: 'mend it', member_token: 'secret' })
  assert.deepEqual(spec.entrypoint, ['claude', '--print', '--verbose', '--output-format', 'stream-json', '--dangerously-skip-permissions', '-p', 'mend it'])
  assert.deepEqual(spec.env, { AIRSTORE_MEMBER_TOKEN: 'secret' })
})

test('what can never be run is refused with why', () => {
  const cases: [object | string, RegExp][] = [
    ['nonsense', /no JSON$/],
    ['[1]', /no JSON object/],
    [{ external_id: undefined }, /external_id/],
    [{ external_id: 'a:b' }, /external_id/],
    [{ image: undefined }, /image is missing/],
    [{ image: 'UPPER CASE' }, /image/],
    [{ resources: { gpu: 1 } }, /GPU/],
    [{ resources: { cpu: 32_001 } }, /cpu is 32001; 32000 is the most/],
    [{ resources: { memory: -1 } }, /memory must be a whole number/],
    [{ type: 'interactive', entrypoint: [] }, /interactive/],
    [{ type: 'batch' }, /background or interactive/],
    [{ entrypoint: [] }, /neither an entrypoint nor a prompt/],
    [{ entrypoint: [1] }, /list of strings/],
    [{ entrypoint: ['a\0'] }, /NUL/],
    [{ env: { 'A B': '' } }, /no name of a variable/],
    [{ env: { A: 1 } }, /env.A must be a string/],
    [{ env: { A: 'x'.repeat(200 * 1024) } }, /more than 131072 bytes/],
    [{ network_enabled: 'yes' }, /true or false/],
    [{ attempt: 1.5 }, /attempt must be/],
  ]
  for (const [fields, message] of cases) {
    const raw = typeof fields === 'string' ? fields : JSON.stringify({ external_id: externalId, image: 'a', entrypoint: ['true'], ...fields })
    const refused = toNewTask(raw, { pool: 'default' })
    assert.ok(refused instanceof WireRefusal, raw)
    assert.match(refused.message, message)
  }
})

test('the place of a log lies on the same node of a cluster as its buffer', () => {
  const plain = wireKeys('airstore')
  assert.equal(plain.logPlace('a'), '{airstore:task_logs_buf:a}:place')
  assert.equal(wireKeys('{air}store').logPlace('a'), '{air}store:task_logs_buf:a:place')
})
