/** Settings of addresses from a gateway, and what they mean for what sandboxes reach. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readConfig } from '../../../src/config.ts'
import { classifyAddress } from '../../../src/services/network/address-classes.ts'
import { parseEgress } from '../../../src/services/network/egress-policy.ts'
import { planNetwork } from '../../../src/services/network/network-plan.ts'
import { tableText } from '../../../src/services/network/ruleset-text.ts'

const complete = { BERTH_NETWORK_ADDRESSES: 'gateway', BERTH_GATEWAY: 'gateway.test:9090', BERTH_GATEWAY_TOKEN_FILE: '/etc/berth/token', BERTH_GATEWAY_IPV4_POOL: '10.64.0.0/12' }
const plan = planNetwork({ tag: 'abcdef', pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64', blockIndex: 3 })

test('addresses are local unless a gateway is named with all that it takes', () => {
  assert.equal(readConfig({}, {}).networkAddresses, 'local')
  const { networkAddresses, gateway, gatewayIpv4Pool } = readConfig({}, complete)
  assert.deepEqual([networkAddresses, gateway, gatewayIpv4Pool], ['gateway', 'gateway.test:9090', '10.64.0.0/12'])
  assert.throws(() => readConfig({}, { BERTH_NETWORK_ADDRESSES: 'gateway' }), { code: 'invalid_config', message: 'BERTH_NETWORK_ADDRESSES=gateway needs BERTH_GATEWAY, BERTH_GATEWAY_TOKEN_FILE, BERTH_GATEWAY_IPV4_POOL' })
  const { BERTH_NETWORK_ADDRESSES: _, ...rest } = complete
  assert.equal(readConfig({}, rest).networkAddresses, 'local')
})

const wrong: Array<[environment: Record<string, string>, message: RegExp]> = [
  [{ BERTH_NETWORK_ADDRESSES: 'elsewhere' }, /^BERTH_NETWORK_ADDRESSES: give one of local, gateway$/],
  [{ BERTH_GATEWAY: 'http://gateway.test' }, /^BERTH_GATEWAY: give HOST:PORT/],
  [{ BERTH_GATEWAY: 'gateway.test:0' }, /^BERTH_GATEWAY: /],
  [{ BERTH_GATEWAY: '[gateway]:9090' }, /^BERTH_GATEWAY: /],
  [{ BERTH_GATEWAY_IPV4_POOL: '10.64.0.0' }, /^BERTH_GATEWAY_IPV4_POOL: give the IPv4 network/],
  [{ BERTH_GATEWAY_IPV4_POOL: 'fd00::/64' }, /^BERTH_GATEWAY_IPV4_POOL: give the IPv4 network/],
  [{ BERTH_GATEWAY_IPV4_POOL: '10.64.0.1/12' }, /^BERTH_GATEWAY_IPV4_POOL: .* write 10\.64\.0\.0\/12$/],
  [{ BERTH_GATEWAY_IPV4_POOL: '203.0.113.0/24' }, /^BERTH_GATEWAY_IPV4_POOL: .* not a private network/],
  [{ BERTH_GATEWAY_IPV4_POOL: '10.200.16.0/20' }, /^BERTH_GATEWAY_IPV4_POOL 10\.200\.16\.0\/20 overlaps BERTH_NETWORK_IPV4_POOL 10\.200\.0\.0\/16/],
]
for (const [environment, message] of wrong) {
  test(`${JSON.stringify(environment)} is refused with what to write`, () => {
    assert.throws(() => readConfig({}, { ...complete, ...environment }), { code: 'invalid_config', message })
  })
}

test('what the gateway lends to other hosts is reached by no sandbox, not even with an entry', () => {
  const pools = { ...plan, leasedPool4: '10.64.0.0/12' }
  assert.deepEqual(['10.64.0.1', '10.79.255.255', '10.200.9.9'].map(address => classifyAddress(address, pools)), Array(3).fill('forbidden'))
  assert.deepEqual(['10.63.255.255', '10.80.0.0'].map(address => classifyAddress(address, pools)), ['private', 'private'])
  assert.equal(classifyAddress('10.64.0.1', plan), 'private')
  assert.throws(() => parseEgress({ allow: ['10.64.3.0/24'] }, pools), { kind: 'invalid_argument' })
  assert.doesNotThrow(() => parseEgress({ allow: ['10.64.3.0/24'] }, plan))
})

test('the packet filter knows the lent network: nobody reaches it, and its packets leave with the host\'s address', () => {
  const lines = tableText({ ...plan, leasedPool4: '10.64.0.0/12' }, {}).split('\n')
  assert.match(lines.find(line => line.startsWith('set forbidden4')) ?? '', /[ ,]10\.64\.0\.0\/12,/)
  const masquerades = lines.filter(line => line.endsWith('masquerade'))
  assert.ok(masquerades.includes(`ip saddr 10.64.0.0/12 iifgroup ${plan.group} oifgroup != ${plan.group} masquerade`))
  assert.ok(!tableText(plan, {}).includes('10.64'))
})
