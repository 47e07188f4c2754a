/** Three gateways, eight hosts and a Redis in a network of their own, killed and parted at random: every task is settled once. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runFleetChaos } from '../fleet/fleet-chaos.ts'

test('2000 tasks are each settled exactly once while the fleet is killed and parted', async t => {
  const { broken, ...counts } = await runFleetChaos(t, { seed: Date.now() % 1_000_000, tasks: 2000, realTasks: 60, chaosMs: 40_000, onEvent: text => t.diagnostic(text) })
  t.diagnostic(JSON.stringify(counts))
  assert.deepEqual(broken, [])
  assert.equal(counts.tasks, 2000)
  assert.equal(counts.complete + counts.failed + counts.cancelled, 2000)
  assert.ok(counts.partitions > 0 && Object.values(counts.kills).some(count => count > 0), 'it was disturbed')
})
