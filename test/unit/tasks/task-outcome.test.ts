import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import type { SandboxEnd } from '../../../src/schemas/sandbox.ts'
import type { TaskEnd } from '../../../src/schemas/task.ts'
import { verdictOfDelivery, verdictOfEnd, verdictOfLoss, verdictOfRefusal } from '../../../src/services/tasks/task-outcome.ts'

const at = '2026-01-01T00:00:00.000Z'
const running = { isCancelled: false }
const cancelled = { isCancelled: true }

const ends: ReadonlyArray<{ end: SandboxEnd, facts: { isCancelled: boolean }, status: string, isRetryable: boolean }> = [
  { end: { reason: 'exited', exitCode: 0, at }, facts: running, status: 'complete', isRetryable: false },
  { end: { reason: 'exited', exitCode: 0, at }, facts: cancelled, status: 'complete', isRetryable: false },
  { end: { reason: 'exited', exitCode: 3, at }, facts: running, status: 'failed', isRetryable: true },
  { end: { reason: 'signaled', exitCode: 137, signal: 'SIGKILL', at }, facts: running, status: 'failed', isRetryable: true },
  { end: { reason: 'out_of_memory', at }, facts: running, status: 'failed', isRetryable: true },
  { end: { reason: 'timed_out', at }, facts: running, status: 'failed', isRetryable: true },
  { end: { reason: 'host_restarted', at }, facts: running, status: 'failed', isRetryable: true },
  { end: { reason: 'requested', exitCode: 143, at }, facts: running, status: 'failed', isRetryable: false },
  { end: { reason: 'requested', exitCode: 143, at }, facts: cancelled, status: 'cancelled', isRetryable: false },
]

for (const { end, facts, status, isRetryable } of ends) {
  test(`${end.reason}${end.exitCode === undefined ? '' : ` ${end.exitCode}`}${facts.isCancelled ? ', to be cancelled' : ''}: ${status}${isRetryable ? ', and may be tried again' : ''}`, () => {
    const verdict = verdictOfEnd(end, facts)
    assert.equal(verdict.verdict, 'settle')
    assert.deepEqual({ status: verdict.outcome.status, isRetryable: verdict.outcome.isRetryable }, { status, isRetryable })
    assert.equal(verdict.outcome.end.exitCode, end.exitCode)
  })
}

test('one that was drained is given back, and nobody is at fault', () => {
  assert.deepEqual(verdictOfEnd({ reason: 'drained', at }, running), { verdict: 'release', delayMs: 0, isFault: false, message: 'the host was drained' })
})

test('what the task itself got wrong fails for good, with the code and the step', () => {
  const error = new BerthError('invalid_argument', 'command_not_found', 'no such command', { details: { step: 'container' } })
  const verdict = verdictOfRefusal(error, running)
  assert.equal(verdict.verdict, 'settle')
  assert.deepEqual({ ...verdict.outcome, end: { ...verdict.outcome.end, at } },
    { status: 'failed', isRetryable: false, end: { reason: 'setup_failed', at, code: 'command_not_found', message: 'no such command', step: 'container' } })
})

for (const error of [new BerthError('unavailable', 'registry_unavailable', 'no answer'), new BerthError('conflict', 'port_taken', 'taken'), new Error('EIO')]) {
  test(`what may pass is given back for a while: ${error.message}`, () => {
    const verdict = verdictOfRefusal(error, running)
    assert.equal(verdict.verdict, 'release')
    assert.equal(verdict.isFault, true)
    assert.ok(verdict.delayMs > 0)
    assert.ok(!verdict.message.includes('EIO'), 'the cause of a defect is for the log')
  })
}

test('a daemon that ends gives back at once', () => {
  const verdict = verdictOfRefusal(new BerthError('unavailable', 'host_stopping', 'ending'), running)
  assert.deepEqual(verdict, { verdict: 'release', delayMs: 0, isFault: false, message: 'ending' })
})

test('a sandbox that could not be made for a task that is to be cancelled: cancelled', () => {
  const verdict = verdictOfRefusal(new Error('whatever'), cancelled)
  assert.equal(verdict.verdict === 'settle' && verdict.outcome.status, 'cancelled')
})

test('what the end of a delivery means for its fleet is what it would mean here', () => {
  const failed = (end: TaskEnd) => verdictOfDelivery({ status: 'failed', end })
  for (const { end, facts, isRetryable } of ends.filter(({ facts, status }) => status === 'failed' && !facts.isCancelled)) {
    assert.deepEqual(failed(end), verdictOfEnd(end, facts), `${end.reason}, ${isRetryable}`)
  }
  const refused = verdictOfRefusal(new BerthError('not_found', 'image_not_found', 'no such image'), running)
  assert.ok(refused.verdict === 'settle')
  assert.deepEqual(failed(refused.outcome.end), refused)
  const lost = verdictOfLoss()
  assert.ok(lost.verdict === 'settle')
  assert.deepEqual(failed(lost.outcome.end), lost)
  assert.deepEqual(failed({ reason: 'undeliverable', at, message: 'no disk' }), { verdict: 'release', delayMs: 5000, isFault: true, message: 'no disk' })
  assert.deepEqual(verdictOfDelivery({ status: 'cancelled', end: { reason: 'drained', at } }), verdictOfEnd({ reason: 'drained', at }, running))
})
