import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatNetwork, parseAddress, parseNetwork, without } from '../../../src/lib/ip-network.ts'
import { classifyAddress } from '../../../src/services/network/address-classes.ts'

const pools = { pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' }

const classes = {
  public: ['1.1.1.1', '9.255.255.255', '11.0.0.0', '100.63.255.255', '100.128.0.0', '168.63.129.15', '168.63.129.17', '172.15.255.255', '172.32.0.0', '192.0.1.0',
    '192.167.255.255', '198.17.255.255', '198.20.0.0', '203.0.113.7', '223.255.255.255', '2606:4700::1111', '2001:db8::1', '2001:1::1', '2003::', '101::'],
  private: ['10.0.0.1', '10.199.255.255', '10.201.0.0', '100.64.0.1', '100.100.100.199', '172.16.0.1', '172.31.255.255', '192.168.1.1', '198.18.0.1',
    'fc00::1', 'fd00:ec3::1', 'fd00:a1b2:0:1::1', 'fd12:3456::1', 'fec0::1'],
  forbidden: ['0.0.0.0', '0.255.255.255', '127.0.0.1', '127.255.255.254', '169.254.169.254', '168.63.129.16', '100.100.100.200', '192.0.0.192', '192.88.99.1',
    '224.0.0.251', '239.255.255.255', '240.0.0.1', '255.255.255.255', '10.200.0.1', '10.200.255.255',
    '::', '::1', '::10.0.0.1', '::ffff:10.0.0.1', '::ffff:1.1.1.1', '::ffff:0:1.1.1.1', '64:ff9b::1.1.1.1', '64:ff9b:1::1', '2001::1', '2002:a00:1::', '100::1',
    'fd00:ec2::254', 'fd20:ce::254', 'fe80::1', 'febf::1', 'ff02::1', 'fd00:a1b2::', 'fd00:a1b2::ffff:1',
    '', 'example.com', '1.1.1', '1.1.1.01', '0x1.1.1.1', '1.1.1.1/32', '1.1.1.1:80', '1.1.1.256', 'fe80::1%eth0', '2606:4700::1111%eth0', '[::1]', ' 1.1.1.1', '16843009'],
} as const

for (const [expected, addresses] of Object.entries(classes)) {
  test(`${expected} addresses are told from the others, at their edges too`, () => {
    assert.deepEqual(addresses.filter(address => classifyAddress(address, pools) !== expected), [])
  })
}

test('the pools of the host are what counts, not those of another', () => {
  const others = { pool4: '172.20.0.0/16', pool6: 'fd99::/48' }
  assert.deepEqual(['10.200.0.9', 'fd00:a1b2::9', '172.20.0.9', 'fd99::9'].map(address => classifyAddress(address, others)), ['private', 'private', 'forbidden', 'forbidden'])
  assert.equal(classifyAddress('10.200.0.9', pools), 'forbidden')
})

test('a network is read with bits of the host dropped, and without what is none', () => {
  const canonical = (text: string): string | undefined => {
    const network = parseNetwork(text)
    return network && formatNetwork(network)
  }
  assert.deepEqual(['10.1.2.3/8', '1.2.3.4', '0.0.0.0/0', 'FD12:0:0::5/48', '::/0', '2001:db8::1'].map(canonical),
    ['10.0.0.0/8', '1.2.3.4/32', '0.0.0.0/0', 'fd12::/48', '::/0', '2001:db8::1/128'])
  assert.deepEqual(['10.0.0.0/33', '10.0.0.0/', '10.0.0.0/08', '10.0.0.0/-1', 'fd12::/129', '10.0/8', '/8', 'fe80::1%e/64'].map(canonical), Array(8).fill(undefined))
  assert.equal(parseAddress('::ffff:1.2.3.4')?.value, 0xffff01020304n)
})

test('what is left of a network without a part of it is the fewest networks', () => {
  const left = (text: string, hole: string): string[] => {
    const [network, removed] = [parseNetwork(text), parseNetwork(hole)]
    assert.ok(network !== undefined && removed !== undefined)
    return without(network, removed).map(formatNetwork)
  }
  assert.deepEqual(left('10.0.0.0/8', '10.200.0.0/16'), ['10.0.0.0/9', '10.128.0.0/10', '10.192.0.0/13', '10.201.0.0/16', '10.202.0.0/15', '10.204.0.0/14', '10.208.0.0/12', '10.224.0.0/11'])
  assert.deepEqual(left('fd00::/127', 'fd00::/128'), ['fd00::1/128'])
  assert.deepEqual(left('10.0.0.0/8', '10.0.0.0/8'), [])
  assert.deepEqual(left('10.0.0.0/8', '11.0.0.0/16'), ['10.0.0.0/8'])
})
