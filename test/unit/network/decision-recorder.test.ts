import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { NetworkDecision } from '../../../src/schemas/network.ts'
import { DecisionRecorder } from '../../../src/services/network/server/decision-recorder.ts'
import type { Decision } from '../../../src/services/network/server/network-protocol.ts'

test('decisions alike within a second become one, with the time of the first', t => {
  const { recorder, emitted } = build(t)
  recorder.record(question('a.test'))
  t.mock.timers.tick(400)
  recorder.record(question('b.test'))
  recorder.record(question('a.test'))
  t.mock.timers.tick(500)
  recorder.record(question('a.test'))
  assert.deepEqual(emitted, [])
  t.mock.timers.tick(100)
  assert.deepEqual(emitted, [
    { ...question('a.test'), at: '1970-01-01T00:00:00.000Z', count: 3 },
    { ...question('b.test'), at: '1970-01-01T00:00:00.400Z', count: 1 },
  ])
  recorder.record(question('a.test'))
  t.mock.timers.tick(1000)
  assert.deepEqual(emitted[2], { ...question('a.test'), at: '1970-01-01T00:00:01.000Z', count: 1 })
})

test('every field tells decisions apart, the sandbox too', t => {
  const { recorder, emitted } = build(t)
  const first: Decision = { ...question('a.test'), entry: 'e', protocol: 'tcp', address: '192.0.2.1', port: 1 }
  const others: Partial<Decision>[] = [
    { sandboxId: 'sbx_2' }, { kind: 'tls' }, { action: 'allowed' }, { reason: 'rule' }, { name: 'b.test' }, { entry: 'f' }, { protocol: 'udp' }, { address: '192.0.2.2' }, { port: 2 },
  ]
  for (const other of [{}, ...others]) recorder.record({ ...first, ...other })
  recorder.flush()
  assert.deepEqual(emitted.map(({ count }) => count), Array.from({ length: 10 }, () => 1))
})

test('a sandbox that makes too many different ones has the rest counted, and takes nothing from another', t => {
  const { recorder, emitted } = build(t)
  for (let i = 0; i < 1000; i++) recorder.record(question(`${i}.test`))
  recorder.record(question('0.test'))
  recorder.record({ ...question('x.test'), sandboxId: 'sbx_2' })
  t.mock.timers.tick(1000)
  assert.equal(emitted.length, 52)
  assert.deepEqual(emitted[0], { ...question('0.test'), at: '1970-01-01T00:00:00.000Z', count: 2 })
  assert.deepEqual(emitted[50], { sandboxId: 'sbx_1', kind: 'dns', action: 'denied', reason: 'suppressed', at: '1970-01-01T00:00:00.000Z', count: 950 })
  assert.equal(emitted[51]?.sandboxId, 'sbx_2')
  recorder.record(question('0.test'))
  t.mock.timers.tick(1000)
  assert.equal(emitted[52]?.count, 1)
})

function build (t: TestContext): { recorder: DecisionRecorder, emitted: Omit<NetworkDecision, 'seq'>[] } {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  const emitted: Omit<NetworkDecision, 'seq'>[] = []
  return { emitted, recorder: new DecisionRecorder({ emit: decision => emitted.push(decision) }) }
}

function question (name: string): Decision {
  return { sandboxId: 'sbx_1', kind: 'dns', action: 'denied', reason: 'no_rule', name }
}
