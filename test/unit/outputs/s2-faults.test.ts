import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SinkState } from '../../../src/services/outputs/output-sink.ts'
import { SinkRefusal } from '../../../src/services/outputs/output-sink.ts'
import { entriesOf, logsStream, s2Basin, S2Rig, ship } from '../../support/s2-stream-rig.ts'

test('an acknowledgement that was lost is not doubled', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  await ship(sink, entriesOf(10))
  rig.server.faults.loseAcks = 3
  const failures: string[] = []
  await ship(sink, entriesOf(200, 10), { onFailure: error => { failures.push(error.message) } })
  assert.equal(rig.server.faults.loseAcks, 0)
  assert.ok(failures.length >= 3)
  rig.assertLogs(210)
})

test('an acknowledgement that nobody waited for any more is not doubled by the next daemon', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  const state = await ship(sink, entriesOf(10))
  rig.server.faults.ackDelayMs = 10_000
  const writes = [10, 20, 30, 40].map(seq => sink.write(entriesOf(10, seq)))
  writes.forEach(write => write.catch(() => undefined))
  while (rig.logs().length < 20) await sleep(5)
  await sink.close()
  assert.deepEqual(new Set((await Promise.allSettled(writes)).map(({ status }) => status)), new Set(['rejected']))
  rig.server.faults.ackDelayMs = 0
  const next = await rig.open({ state })
  await ship(next, entriesOf(90, 10))
  rig.assertLogs(100)
})

test('a batch that a daemon sent before its death does not slip in behind the next one\'s', async t => {
  const rig = await S2Rig.start(t)
  const [old, next] = [await rig.open(), await rig.open()]
  const state = await ship(old, entriesOf(10))
  await ship(next, entriesOf(30))
  // What the old one believes of the tail is not true any more; it has to look, and finds its own entries there.
  await ship(old, entriesOf(20, 10))
  await ship(old, entriesOf(10, 30))
  await ship(next, entriesOf(10, 30))
  rig.assertLogs(40)
  assert.deepEqual(state, { tail: 10, seq: 9, cursor: '0:10' })
})

for (const fault of ['halveAcks', 'dieAfterAcks', 'adviseReconnects'] as const) {
  test(`every entry arrives once, in order, with ${fault}`, async t => {
    const rig = await S2Rig.start(t)
    const sink = await rig.open()
    rig.server.faults[fault] = 4
    await ship(sink, entriesOf(300))
    assert.equal(rig.server.faults[fault], 0)
    rig.assertLogs(300)
  })
}

test('S2 is away for a while, and away again; acknowledgements are slow', async t => {
  const rig = await S2Rig.start(t)
  rig.server.faults.ackDelayMs = 3
  const sink = await rig.open()
  let failures = 0
  const shipping = ship(sink, entriesOf(600), { onFailure: () => { failures++ } })
  for (let n = 0; n < 3; n++) {
    const had = rig.logs().length
    while (rig.logs().length < Math.min(had + 50, 600)) await sleep(2)
    await rig.server.front.goAway()
    const soFar = failures
    while (failures < soFar + 3) await sleep(2)
    await rig.server.front.comeBack()
  }
  await shipping
  rig.assertLogs(600)
})

test('S2 refuses for a while: too many requests, out of order, broken; the error says so', async t => {
  const rig = await S2Rig.start(t)
  const answers = [
    { status: 429, code: 'rate_limited', message: 'slow down', retryAfterSeconds: 1 },
    { status: 503, code: 'unavailable', message: 'come again', retryAfterSeconds: 1 },
    { status: 500, code: 'storage', message: 'a disk' },
  ]
  for (const inSession of [false, true]) {
    const count = rig.logs().length
    const sink = await rig.open({ state: count === 0 ? undefined : { tail: count, seq: count - 1 } })
    if (inSession) await ship(sink, entriesOf(10, count))
    const said: string[] = []
    const left = [...answers]
    const refuse = (): void => {
      const answer = left.shift()
      if (inSession) rig.server.faults.failAppends = answer && { ...answer, count: 1 }
      else rig.server.faults.refuse = answer
    }
    refuse()
    await ship(sink, entriesOf(40, rig.logs().length), { onFailure: error => { said.push(error.message); assert.ok(!(error instanceof SinkRefusal)); refuse() } })
    assert.deepEqual(said.map(message => /429|503|500/.exec(message)?.[0]), ['429', '503', '500'], said.join('\n'))
    await sink.close()
  }
  rig.assertLogs(90)
})

test('a token that is not accepted is said without showing it, and mended meanwhile', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  await ship(sink, entriesOf(10))
  const { token } = rig.server
  rig.server.token = 'another-token-of-a-test'
  rig.server.front.cut()
  const errors: Error[] = []
  await ship(sink, entriesOf(20, 10), {
    onFailure: error => {
      errors.push(error)
      if (errors.length === 4) rig.server.token = token
    },
  })
  assert.ok(errors.some(({ message }) => /401/.test(message)))
  const shown = errors.map(error => `${error.stack}${JSON.stringify(error)}${String(error.cause)}`).join('\n') + rig.logged.join('')
  assert.ok(!shown.includes(token), shown)
  rig.assertLogs(30)
})

test('a token that cannot stand in a header is not shown either', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open({ accessToken: 'line one\nline two' })
  await assert.rejects(sink.write(entriesOf(1)), (error: Error) => !`${error.stack}`.includes('line one'))
})

test('a basin that is not there, or a right that is missing, is an error that can be mended', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open({ basin: 'berth-none' })
  await assert.rejects(sink.write(entriesOf(1)), (error: Error) => /no basin berth-none/.test(error.message) && !(error instanceof SinkRefusal))
  rig.server.faults.mayCreate = false
  const other = await rig.open()
  await assert.rejects(other.write(entriesOf(1)), /no stream/)
  rig.server.faults.refuse = { status: 403, code: 'permission_denied', message: 'not for you' }
  await assert.rejects(other.write(entriesOf(1)), /may not create, read and append/)
  rig.server.faults.refuse = undefined
  rig.server.faults.mayCreate = true
  await ship(other, entriesOf(10))
  rig.assertLogs(10)
})

test('S2 that takes connections and never answers costs time and nothing else', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open({ requestTimeoutMs: 100 })
  await ship(sink, entriesOf(10))
  rig.server.front.fallSilent()
  const said: string[] = []
  // More than the windows of the connection hold, so that a write is stuck too.
  const large = entriesOf(1000, 10).map(entry => ({ ...entry, data: Buffer.alloc(5000, 'x') }))
  await ship(sink, large, {
    batchEntries: 100,
    onFailure: error => {
      said.push(error.message)
      if (said.length === 3) rig.server.front.speak()
    },
  })
  assert.match(said[0] ?? '', /no acknowledgement within 100 ms/)
  rig.assertLogs(1010)
})

test('a connection that has gone silent is given up for a new one', async t => {
  const rig = await S2Rig.start(t)
  const [sink, other] = [await rig.open({ requestTimeoutMs: 100 }), await rig.open({ taskId: 'tsk_def', requestTimeoutMs: 100 })]
  // One that has nothing to say keeps its session on that connection meanwhile.
  const quiet = await rig.open({ taskId: 'tsk_ghi' })
  await Promise.all([ship(sink, entriesOf(10)), ship(other, entriesOf(10)), quiet.write(entriesOf(1))])
  rig.server.front.silenceOpen()
  await Promise.all([ship(sink, entriesOf(10, 10)), ship(other, entriesOf(10, 10))])
  rig.assertLogs(20)
  rig.assertLogs(20, 'task.tsk_def.logs')
  await ship(quiet, entriesOf(5, 1))
  rig.assertLogs(6, 'task.tsk_ghi.logs')
})

test('S2 that goes silent does not keep a sink from closing', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  await ship(sink, entriesOf(10))
  rig.server.front.fallSilent()
  const writes = [sink.write(entriesOf(10, 10)), sink.write(entriesOf(10, 20))]
  const status = sink.writeStatus?.([{ seq: 0, at: '2026-01-01T00:00:00.000Z', status: 'running', attempt: 1 }])
  const all = Promise.allSettled([...writes, status])
  await sleep(20)
  await sink.close()
  assert.deepEqual((await all).map(result => result.status), ['rejected', 'rejected', 'rejected'])
})

test('the way is lost at random moments, and the one who ships dies at others: everything arrives once, in order', async t => {
  const rig = await S2Rig.start(t)
  const entries = entriesOf(900)
  let state: SinkState
  let next = 0
  let lives = 0
  rig.server.faults.ackDelayMs = 1
  while (next < entries.length) {
    lives++
    const sink = await rig.open({ state })
    // What the shipper keeps on disk lags behind what was confirmed.
    const keepsUp = Math.random() < 0.5
    let kept: [SinkState, number] = [state, next]
    const deadline = Math.random() * 60
    const died = sleep(deadline).then(() => sink.close())
    const fault = (['loseAcks', 'halveAcks', 'dieAfterAcks', 'adviseReconnects'] as const)[lives % 4] ?? 'loseAcks'
    rig.server.faults[fault] = 1
    let isDead = false
    void died.then(() => { isDead = true })
    await ship(sink, entries.slice(next), {
      batchEntries: 1 + lives % 13,
      onFailure: error => { if (isDead) throw error },
      onConfirmed: (confirmed, seq) => { if (keepsUp || kept[1] === next) kept = [confirmed, seq + 1] },
    }).catch(() => undefined)
    await died
    ;[state, next] = kept
  }
  t.diagnostic(`${lives} lives`)
  rig.assertLogs(900)
  assert.equal(rig.server.records(s2Basin, logsStream).length, 900)
})
