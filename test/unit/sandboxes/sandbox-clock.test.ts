/** Deadlines: absolute, only ever extended, and paused time does not count. */
import assert from 'node:assert/strict'
import { mock, test, type TestContext } from 'node:test'
import { SandboxClock } from '../../../src/services/sandboxes/sandbox-clock.ts'
import type { SandboxRecord } from '../../../src/services/sandboxes/sandbox-record.ts'

const startMs = Date.parse('2026-03-01T09:30:00.000Z')

/** A started clock at a standstill; `advance` moves the time. */
function build (t: TestContext, limits: Pick<SandboxRecord, 'timeoutMs' | 'idleTimeoutMs'>) {
  mock.timers.enable({ apis: ['Date'], now: startMs })
  t.after(() => mock.timers.reset())
  const record = { ...limits, startedAt: new Date(startMs).toISOString() } as SandboxRecord
  const clock = new SandboxClock(record)
  clock.start()
  const secondsLeft = (at: string | undefined) => at === undefined ? undefined : (Date.parse(at) - startMs) / 1000
  return {
    record,
    clock,
    advance: (seconds: number) => mock.timers.setTime(Date.now() + seconds * 1000),
    deadline: () => secondsLeft(record.deadlineAt),
    idleDeadline: () => secondsLeft(record.idleDeadlineAt),
  }
}

test('a sandbox without limits never expires', t => {
  const { clock, record } = build(t, {})
  assert.equal(clock.expired(Number.MAX_SAFE_INTEGER), undefined)
  assert.equal(record.deadlineAt, undefined)
})

test('a deadline passes at its moment, not before', t => {
  const { clock } = build(t, { timeoutMs: 10_000 })
  assert.equal(clock.expired(startMs + 9999), undefined)
  assert.equal(clock.expired(startMs + 10_000), 'timed_out')
})

test('the deadline comes before idleness when both have passed', t => {
  const { clock } = build(t, { timeoutMs: 10_000, idleTimeoutMs: 5000 })
  assert.equal(clock.expired(startMs + 5000), 'idle')
  assert.equal(clock.expired(startMs + 10_000), 'timed_out')
})

test('paused time does not count', t => {
  const { clock, advance, deadline, idleDeadline, record } = build(t, { timeoutMs: 10_000, idleTimeoutMs: 8000 })
  advance(4)
  clock.pause()
  assert.equal(deadline(), undefined)
  advance(1000)
  assert.equal(clock.expired(Date.now()), undefined)
  clock.resume()
  assert.deepEqual([deadline(), idleDeadline()], [1010, 1008])
  assert.equal(record.pausedRemainingMs, undefined)
})

test('a deadline that was missed when it was paused is due at once when it goes on', t => {
  const { clock, advance } = build(t, { timeoutMs: 1000 })
  advance(5)
  clock.pause()
  clock.resume()
  assert.equal(clock.expired(Date.now()), 'timed_out')
})

test('extending moves a deadline later, and never earlier', t => {
  const { clock, advance, deadline } = build(t, { timeoutMs: 10_000 })
  advance(5)
  clock.extend(2000)
  assert.equal(deadline(), 10)
  clock.extend(60_000)
  assert.equal(deadline(), 65)
})

test('a sandbox without a deadline can be given one', t => {
  const { clock, advance, deadline } = build(t, {})
  advance(5)
  clock.extend(1000)
  assert.equal(deadline(), 6)
})

test('extending while paused counts from the moment it goes on, and never shortens what is left', t => {
  const { clock, advance, deadline } = build(t, { timeoutMs: 10_000 })
  clock.pause()
  clock.extend(2000)
  advance(100)
  clock.resume()
  assert.equal(deadline(), 110)
  clock.pause()
  clock.extend(30_000)
  clock.resume()
  assert.equal(deadline(), 130)
})

test('a sandbox is not idle while anything is done in it, and idles anew from the end of the last', t => {
  const { clock, advance, idleDeadline } = build(t, { idleTimeoutMs: 5000 })
  const endFirst = clock.beginActivity()
  const endSecond = clock.beginActivity()
  advance(60)
  assert.equal(clock.expired(Date.now()), undefined)
  endFirst()
  endFirst()
  advance(60)
  assert.equal(clock.expired(Date.now()), undefined, 'an end that is told twice counts once')
  endSecond()
  assert.equal(idleDeadline(), 125)
  assert.equal(clock.expired(startMs + 125_000), 'idle')
})

test('an activity is noted for the disk only where idleness is limited', t => {
  const limited = build(t, { idleTimeoutMs: 5000 })
  limited.clock.beginActivity()
  assert.equal(limited.clock.isDirty, true)
  const record = {} as SandboxRecord
  const unlimited = new SandboxClock(record)
  unlimited.start()
  unlimited.beginActivity()
  assert.equal(unlimited.isDirty, false)
})

test('a sandbox that has ended has no deadlines', t => {
  const { clock, record } = build(t, { timeoutMs: 1000, idleTimeoutMs: 1000 })
  clock.stop()
  assert.equal(clock.expired(Number.MAX_SAFE_INTEGER), undefined)
  assert.equal(record.deadlineAt ?? record.idleDeadlineAt, undefined)
})

test('who was busy when a daemon died has a while to come back to the next', t => {
  const { clock, record, advance, idleDeadline } = build(t, { idleTimeoutMs: 60_000 })
  advance(10)
  new SandboxClock(record).adopt()
  assert.equal(idleDeadline(), 60)
  advance(300)
  const next = new SandboxClock(record)
  next.adopt()
  assert.equal(idleDeadline(), 340)
  assert.equal(next.isDirty, true)
  assert.equal(clock.expired(startMs + 340_000), 'idle')
})
