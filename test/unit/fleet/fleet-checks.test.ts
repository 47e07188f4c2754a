/** That the checks of the fleet test see what they look for. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deliveryId } from '../../../src/services/tasks/delivery-id.ts'
import type { AttemptRecord, TaskRecord } from '../../../src/services/tasks/task-record.ts'
import { check, type Expectation } from '../../fleet/fleet-checks.ts'

const at = '2026-01-01T00:00:00.000Z'
const id = 'tsk_aaaaaaaaaaaaaaaaaaaa'
const good: Expectation = { exitCode: 0, isCancelled: false }
const complete: AttemptRecord = { number: 1, fence: 1, status: 'complete', claimedAt: at, end: { reason: 'exited', at, exitCode: 0 } }

function record (attempts: AttemptRecord[] = [complete], finals = 1): TaskRecord {
  const history = Array.from({ length: finals }, () => ({ at, status: 'complete' as const, attempt: 1 }))
  return { id, status: 'complete', attempt: 1, attempts, history, end: attempts.at(-1)!.end, createdAt: at, availableAt: at, endedAt: at } as TaskRecord
}

const started = (...fences: number[]) => new Map(fences.map(fence => [deliveryId({ taskId: id, fence }), 1]))
const expected = new Map([[id, good]])
const broken = (...args: Parameters<typeof check>) => check(...args).broken

test('what is as promised is counted, and nothing is broken', () => {
  const verdict = check(expected, [record()], started(1))
  assert.deepEqual(verdict, { tasks: 1, complete: 1, failed: 0, cancelled: 0, starts: 1, repeatedStarts: 0, returned: 0, broken: [] })
})

test('a lost task, one that nobody ordered, two ends and a wrong end are seen', () => {
  assert.match(broken(expected, [], new Map())[0]!, /is lost/)
  assert.match(broken(new Map(), [record()], started(1))[0]!, /made two/)
  assert.match(broken(expected, [record([complete], 2)], started(1))[0]!, /settled 2 times/)
  assert.match(broken(new Map([[id, { ...good, exitCode: 3 }]]), [record()], started(1))[0]!, /should have ended with 3/)
})

test('a second start is right after a lapsed lease alone', () => {
  const lapsed: AttemptRecord = { ...complete, status: 'returned', end: { reason: 'lost', at, message: 'the lease of host hst_a lapsed' } }
  const second = { ...complete, fence: 2 }
  const verdict = check(expected, [record([lapsed, second])], started(1, 2))
  assert.deepEqual([verdict.starts, verdict.repeatedStarts, verdict.broken], [2, 1, []])
  assert.match(broken(expected, [record([{ ...lapsed, end: { reason: 'drained', at } }, second])], started(1, 2))[0]!, /no lease had lapsed/)
  assert.match(broken(expected, [record()], new Map([[deliveryId({ taskId: id, fence: 1 }), 2]]))[0]!, /started 2 times on its host/)
  assert.match(broken(expected, [record()], started(1, 9))[0]!, /no task knows of it/)
})
