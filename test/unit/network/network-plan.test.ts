import assert from 'node:assert/strict'
import { test } from 'node:test'
import { countBlocks, parsePools, planNetwork, slotOfName, tagOf } from '../../../src/services/network/network-plan.ts'

const pools = { pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' }

test('names and addresses follow from tag, block and slot', () => {
  const { slot, ...plan } = planNetwork({ tag: 'a1b2c3', ...pools, blockIndex: 3 })
  assert.deepEqual(plan, {
    tag: 'a1b2c3',
    group: 0x42a1b2c3,
    table: 'berth_a1b2c3',
    ...pools,
    block4: '10.200.48.0/20',
    block6: 'fd00:a1b2::3:0/112',
    gateway4: '10.200.48.1',
    gateway6: 'fd00:a1b2::3:1',
    gatewayMac: '02:00:00:ff:ff:01',
    nflogGroup: 0xa1b2c3 % 65_535 + 1,
    slotCount: 4095,
  })
  assert.deepEqual(slot(0x111), {
    number: 0x111,
    netns: 'berth-a1b2c3-0111',
    netnsPath: '/run/netns/berth-a1b2c3-0111',
    device: 'bva1b2c30111',
    mac: '02:00:00:00:01:11',
    ipv4: '10.200.49.17',
    ipv6: 'fd00:a1b2::3:111',
  })
  assert.equal(slot(2).ipv4, '10.200.48.2')
  assert.equal(slot(4094).ipv4, '10.200.63.254', 'the last address of the block is no slot\'s')
  for (const number of [-1, 0, 1, 4095, 2.5, NaN]) assert.throws(() => slot(number), /there is no slot/)
})

test('groups of links and of the log are never 0 and fit their fields', () => {
  for (const tag of ['000000', 'ffffff', '00ffff', '00fffe', '010000']) {
    const { group, nflogGroup } = planNetwork({ tag, ...pools, blockIndex: 0 })
    assert.ok(group > 0 && group < 2 ** 31, `${tag}: ${group}`)
    assert.ok(nflogGroup > 0 && nflogGroup < 2 ** 16, `${tag}: ${nflogGroup}`)
  }
})

test('a tag follows from the host id alone', () => {
  assert.match(tagOf('hst_1'), /^[0-9a-f]{6}$/)
  assert.equal(tagOf('hst_1'), tagOf('hst_1'))
  assert.notEqual(tagOf('hst_1'), tagOf('hst_2'))
  assert.throws(() => planNetwork({ tag: 'A1B2C3', ...pools, blockIndex: 0 }), /no tag/)
})

test('the smaller pool of the two decides how many daemons find room', () => {
  assert.equal(countBlocks('10.200.0.0/16', 'fd00:a1b2::/64'), 16)
  assert.equal(countBlocks('10.0.0.0/8', 'fd00::/32'), 4096)
  assert.equal(countBlocks('10.0.0.0/8', 'fd00::/110'), 4)
  assert.equal(countBlocks('10.0.0.0/28', 'fd00::/112'), 1)
})

test('blocks do not overlap, and a pool smaller than a block is one', () => {
  const blocks = Array.from({ length: 16 }, (_, blockIndex) => planNetwork({ tag: '000001', ...pools, blockIndex }))
  assert.equal(new Set(blocks.flatMap(plan => [plan.block4, plan.block6, plan.gateway4, plan.gateway6])).size, 64)
  assert.equal(blocks[15]?.slot(4094).ipv4, '10.200.255.254')
  assert.throws(() => planNetwork({ tag: '000001', ...pools, blockIndex: 16 }), /no block 16/)
  const small = planNetwork({ tag: '000001', pool4: '192.168.7.16/28', pool6: 'fd00::/112', blockIndex: 0 })
  assert.deepEqual([small.block4, small.gateway4, small.slotCount, small.slot(14).ipv4], ['192.168.7.16/28', '192.168.7.17', 15, '192.168.7.30'])
})

test('a slot is found by the name of its namespace or device, and by no other', () => {
  const plan = planNetwork({ tag: 'a1b2c3', ...pools, blockIndex: 0 })
  for (const name of [plan.slot(0xabc).netns, plan.slot(0xabc).device]) assert.equal(slotOfName(plan, name), 0xabc)
  for (const name of ['berth-a1b2c3-0001', 'bva1b2c30000', 'bva1b2c30fff', 'bva1b2c3ffff', 'berth-a1b2c4-0002', 'bva1b2c30ABC', 'bva1b2c3002', 'bva1b2c300020', 'eth0', '', 'berth-a1b2c3-']) {
    assert.equal(slotOfName(plan, name), undefined, name)
  }
})

test('pools are read from settings, and what cannot be one is said', () => {
  assert.deepEqual(parsePools('10.200.0.0/16', 'FD00:A1B2:0::/64'), pools)
  const wrong: [pool4: string, pool6: string, message: RegExp][] = [
    ['10.200.0.0/7', 'fd00::/64', /8 to 28/],
    ['10.200.0.0', 'fd00::/64', /8 to 28/],
    ['10.200.0.0/29', 'fd00::/64', /8 to 28/],
    ['10.200.0.1/16', 'fd00::/64', /write 10\.200\.0\.0\/16/],
    ['fd00::/64', 'fd00::/64', /no IPv4 network/],
    ['pool', 'fd00::/64', /"pool" is no IPv4 network/],
    ['127.0.0.0/8', 'fd00::/64', /overlaps 127\.0\.0\.0\/8 \(loopback\)/],
    ['168.63.0.0/16', 'fd00::/64', /overlaps 168\.63\.129\.16/],
    ['10.200.0.0/16', 'fd00::/31', /32 to 112/],
    ['10.200.0.0/16', 'fd00::/113', /32 to 112/],
    ['10.200.0.0/16', 'fe80::/64', /link-local/],
    ['10.200.0.0/16', '10.200.0.0/16', /no IPv6 network/],
  ]
  for (const [pool4, pool6, message] of wrong) assert.throws(() => parsePools(pool4, pool6), { name: 'Error', message })
})
