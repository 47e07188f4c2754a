import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Registry } from 'prom-client'
import { createNetworkMetrics, type DeniedCount } from '../../../src/services/network/network-metrics.ts'

test('metrics show what the packet filter counts, decisions and slots, by one reading a scrape', async () => {
  const registry = new Registry()
  let readings = 0
  let counters: () => Promise<Record<string, DeniedCount>> = async () => ({ no_rule: { packets: 3, bytes: 180 }, other_sandbox: { packets: 0, bytes: 0 } })
  const errors: unknown[] = []
  const metrics = createNetworkMetrics(registry, {
    counters: () => { readings++; return counters() },
    slots: () => ({ ready: 8, held: 2 }),
    onError: error => errors.push(error),
  })
  metrics.observeDecision({ kind: 'dns', action: 'denied', count: 4 })
  metrics.observeDecision({ kind: 'dns', action: 'denied', count: 1 })
  const text = await registry.metrics()
  for (const line of [
    'berth_network_denied_packets_total{reason="no_rule"} 3',
    'berth_network_denied_bytes_total{reason="no_rule"} 180',
    'berth_network_denied_packets_total{reason="other_sandbox"} 0',
    'berth_network_decisions_total{kind="dns",action="denied"} 5',
    'berth_network_slots{state="ready"} 8',
  ]) assert.ok(text.split('\n').includes(line), line)
  assert.equal(readings, 1)
  counters = async () => ({ no_rule: { packets: 5, bytes: 300 } })
  assert.match(await registry.metrics(), /packets_total\{reason="no_rule"\} 5/)
  counters = async () => { throw new Error('no netlink') }
  assert.match(await registry.metrics(), /packets_total\{reason="no_rule"\} 5/)
  assert.deepEqual([readings, errors.length], [3, 1])
})
