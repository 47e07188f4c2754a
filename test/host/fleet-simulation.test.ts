import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runFleetSimulation } from '../fleet/fleet-simulation.ts'

test('fifty workers settle two thousand tasks of one gateway, each once, and none of them is taken for lost', async t => {
  const { broken, settled, redelivered, missedHeartbeats, failures } = await runFleetSimulation(t, { workers: 50, tasks: 2000 })
  assert.deepEqual(broken, [])
  assert.deepEqual({ settled, redelivered, missedHeartbeats, failures }, { settled: 2000, redelivered: 0, missedHeartbeats: 0, failures: 0 })
})
