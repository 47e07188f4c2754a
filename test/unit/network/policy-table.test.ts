import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PolicyTable } from '../../../src/services/network/server/policy-table.ts'
import { serverPolicy } from '../../support/server-policy.ts'

test('a sandbox is found by its addresses, as a socket shows them, and by its device', () => {
  const table = new PolicyTable()
  const policy = serverPolicy('a', 5)
  table.set(policy)
  for (const source of ['10.200.0.5', '::ffff:10.200.0.5', 'fd00:a1b2::5']) assert.equal(table.bySource(source), policy, source)
  assert.equal(table.byDevice('bvaaaaaa0005'), policy)
  for (const source of ['10.200.0.6', '::ffff:10.200.0.6', 'fd00:a1b2::6', '::ffff:0:5', '']) assert.equal(table.bySource(source), undefined, source)
  assert.equal(table.byDevice('eth0'), undefined)
})

test('an address is the same however it is written', () => {
  const table = new PolicyTable()
  table.set({ ...serverPolicy('a', 5), ipv6: 'FD00:A1B2:0:0:0:0:0:5' })
  assert.equal(table.bySource('fd00:a1b2::5')?.sandboxId, 'a')
})

test('another policy of a sandbox takes the place of the first, with all its names', () => {
  const table = new PolicyTable()
  table.set(serverPolicy('a', 5))
  table.set(serverPolicy('a', 6))
  assert.equal(table.size, 1)
  assert.equal(table.bySource('10.200.0.5'), undefined)
  assert.equal(table.byDevice('bvaaaaaa0005'), undefined)
  assert.equal(table.bySource('fd00:a1b2::6')?.sandboxId, 'a')
})

test('what has gone on to another sandbox stays with it when the first one is forgotten', () => {
  const table = new PolicyTable()
  table.set(serverPolicy('a', 5))
  table.set(serverPolicy('b', 5))
  table.delete('a')
  assert.equal(table.bySource('10.200.0.5')?.sandboxId, 'b')
  assert.equal(table.bySource('fd00:a1b2::5')?.sandboxId, 'b')
  assert.equal(table.byDevice('bvaaaaaa0005')?.sandboxId, 'b')
  table.delete('b')
  table.delete('nobody')
  assert.deepEqual([table.size, table.bySource('10.200.0.5')], [0, undefined])
})

test('all policies at once: those that changed or went are named, those that stayed or came are not', () => {
  const table = new PolicyTable()
  for (const [id, slot] of [['same', 2], ['changed', 3], ['gone', 4]] as const) table.set(serverPolicy(id, slot))
  const changed = { ...serverPolicy('changed', 3), hasGateway: true }
  assert.deepEqual(table.replaceAll([serverPolicy('same', 2), changed, serverPolicy('new', 5)]).sort(), ['changed', 'gone'])
  assert.deepEqual(table.all().map(({ sandboxId }) => sandboxId), ['same', 'changed', 'new'])
  assert.equal(table.bySource('10.200.0.4'), undefined)
  assert.equal(table.byId('changed'), changed)
  assert.deepEqual(table.replaceAll([]).length, 3)
})
