import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { LoggedPacket } from '../../../src/host/nflog.ts'
import { packetDecision } from '../../../src/services/network/server/packet-decision.ts'
import { PolicyTable } from '../../../src/services/network/server/policy-table.ts'

const none = { addresses: [], domains: [] }
const policies = new PolicyTable()
policies.set({
  sandboxId: 'a', device: 'bva', ipv4: '10.200.0.2', ipv6: 'fd00::2', hasGateway: false, publish: [], egress: { mode: 'none', hasInternet: false, allow: none, deny: none, isProxied: false },
})
const outbound: LoggedPacket = { prefix: 'no_rule', device: 'bva', packet: { family: 4, protocol: 'tcp', source: '10.200.0.2', destination: '203.0.113.1', destinationPort: 22 } }

test('a packet out of a sandbox is known by its device, whatever its source says', () => {
  const decision = { sandboxId: 'a', kind: 'packet', action: 'denied', reason: 'no_rule', protocol: 'tcp', address: '203.0.113.1', port: 22 }
  assert.deepEqual(packetDecision(outbound, policies), decision)
  const forged = { ...outbound, prefix: 'spoofed_source', packet: { ...outbound.packet!, source: '10.200.0.9' } }
  assert.deepEqual(packetDecision(forged, policies), { ...decision, reason: 'spoofed_source' })
  assert.equal(packetDecision({ ...forged, device: 'bvb', packet: { ...forged.packet, source: '10.200.0.2' } }, policies), undefined)
})

test('a packet to a sandbox is known by its destination, and tells where it came from', () => {
  const packet = { family: 4, protocol: 'icmp', source: '203.0.113.1', destination: '10.200.0.2' } as const
  assert.deepEqual(packetDecision({ prefix: 'unsolicited', device: 'eth0', packet }, policies),
    { sandboxId: 'a', kind: 'packet', action: 'denied', reason: 'unsolicited', protocol: 'icmp', address: '203.0.113.1' })
  assert.equal(packetDecision({ prefix: 'egress_none', device: 'eth0', packet }, policies)?.address, '203.0.113.1')
  assert.equal(packetDecision({ prefix: 'other_sandbox', device: 'bvb', packet }, policies), undefined)
})

test('what cannot be taken apart is counted all the same, and what is nobody\'s is not', () => {
  assert.deepEqual(packetDecision({ ...outbound, packet: undefined }, policies), { sandboxId: 'a', kind: 'packet', action: 'denied', reason: 'no_rule' })
  assert.equal(packetDecision({ ...outbound, prefix: 'of another program' }, policies), undefined)
  const { device: _device, ...without } = outbound
  assert.equal(packetDecision(without, policies), undefined)
  assert.equal(packetDecision({ prefix: 'unsolicited', packet: undefined }, policies), undefined)
})
