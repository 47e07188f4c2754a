import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PolicyEnforcer } from '../../../src/services/network/server/policy-enforcer.ts'
import { PolicyTable } from '../../../src/services/network/server/policy-table.ts'
import { serverPolicy } from '../../support/server-policy.ts'

test('a policy is in force in every part when the call is done: ports, then the table, then connections', async () => {
  const { enforcer, policies, calls } = build()
  await enforcer.set(serverPolicy('a', 2, [80]))
  assert.deepEqual(calls, ['hold a 80: unknown', 'judge a: known'])
  assert.equal(policies.size, 1)
  await enforcer.remove('a')
  assert.deepEqual(calls.slice(2), ['cut a: unknown', 'release a'])
  assert.equal(policies.size, 0)
})

test('a policy whose port is taken is not in force at all, and the one before it is', async () => {
  const { enforcer, policies, calls } = build({ taken: [81] })
  const before = serverPolicy('a', 2, [80])
  await enforcer.set(before)
  await assert.rejects(enforcer.set(serverPolicy('a', 2, [81])), { kind: 'conflict', code: 'port_taken', details: { hostPort: 81 } })
  assert.equal(policies.byId('a'), before)
  assert.equal(calls.filter(call => call.startsWith('judge')).length, 1)
})

test('of all policies at once, those that cannot have their ports are in force but for them', async () => {
  const { enforcer, policies, calls } = build({ taken: [81] })
  for (const policy of [serverPolicy('gone', 2, [80]), serverPolicy('same', 3), serverPolicy('changed', 4)]) await enforcer.set(policy)
  calls.length = 0
  const failures = await enforcer.setAll([serverPolicy('same', 3), serverPolicy('changed', 4, [81]), serverPolicy('new', 5, [80])])
  assert.deepEqual(failures.map(({ sandboxId, code, details }) => ({ sandboxId, code, details })), [{ sandboxId: 'changed', code: 'port_taken', details: { hostPort: 81 } }])
  assert.deepEqual(policies.all().map(({ sandboxId }) => sandboxId), ['same', 'changed', 'new'])
  assert.deepEqual(calls, ['cut gone: unknown', 'judge changed: known', 'release gone', 'hold same : known', 'hold changed 81: known', 'hold new 80: known'])
})

test('a sandbox with the addresses of another one takes its place', async () => {
  const { enforcer, policies, calls } = build()
  await enforcer.set(serverPolicy('old', 2))
  await enforcer.set(serverPolicy('new', 2))
  assert.deepEqual(policies.all().map(({ sandboxId }) => sandboxId), ['new'])
  assert.ok(calls.includes('cut old: unknown'))
})

test('nothing is in force before the server is ready, and calls keep their order', async () => {
  const ready = Promise.withResolvers<void>()
  const { enforcer, calls } = build({ ready: ready.promise })
  const done = [enforcer.set(serverPolicy('a', 2)), enforcer.remove('a'), enforcer.set(serverPolicy('b', 2))]
  await new Promise(resolve => { setImmediate(resolve) })
  assert.deepEqual(calls, [])
  ready.resolve()
  await Promise.all(done)
  assert.deepEqual(calls, ['hold a : unknown', 'judge a: known', 'cut a: unknown', 'release a', 'hold b : unknown', 'judge b: known'])
})

function build ({ taken = [], ready = Promise.resolve() }: { taken?: number[], ready?: Promise<void> } = {}): { enforcer: PolicyEnforcer, policies: PolicyTable, calls: string[] } {
  const calls: string[] = []
  const policies = new PolicyTable()
  const state = (id: string) => policies.byId(id) ? 'known' : 'unknown'
  const enforcer = new PolicyEnforcer({
    policies,
    ready,
    relays: {
      async set (id, _target, ports) {
        calls.push(`hold ${id} ${ports.map(({ hostPort }) => hostPort).join()}: ${state(id)}`)
        const lost = ports.find(({ hostPort }) => taken.includes(hostPort))
        if (lost) throw Object.assign(new Error('taken'), { code: 'EADDRINUSE', port: lost.hostPort })
      },
      async remove (id) { calls.push(`release ${id}`) },
    },
    proxy: {
      policyChanged: id => { calls.push(`judge ${id}: ${state(id)}`) },
      forget: id => { calls.push(`cut ${id}: ${state(id)}`) },
    },
  })
  return { enforcer, policies, calls }
}
