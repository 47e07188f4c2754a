import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseLabelLimits, parseLabelName, parseOvercommit, parseTaskPools } from '../../../src/services/tasks/task-settings.ts'

test('limits name a label, or a label with a value', () => {
  assert.deepEqual(parseLabelLimits('team=blue:2, customer:3,url=http://x:8:1'), [
    { label: 'team', value: 'blue', max: 2 }, { label: 'customer', max: 3 }, { label: 'url', value: 'http://x:8', max: 1 },
  ])
})

for (const text of ['team', 'team:0', 'team:x', ':3', '=x:3', 'team=blue']) {
  test(`${text} is no limit, and the message says how one looks`, () => {
    assert.throws(() => parseLabelLimits(text), /team=blue:2/)
  })
}

test('pools are names, each once; none is no pool', () => {
  assert.deepEqual(parseTaskPools('default, gpu,default'), ['default', 'gpu'])
  assert.deepEqual(parseTaskPools('none'), [])
  assert.throws(() => parseTaskPools('Big Ones'), /no name of a pool/)
})

test('a label has a sane name, an overcommitment a sane size', () => {
  assert.equal(parseLabelName('acme.io/tenant'), 'acme.io/tenant')
  assert.throws(() => parseLabelName('a b'))
  assert.equal(parseOvercommit('2.5'), 2.5)
  for (const text of ['0', '65', 'many', '-1', '']) assert.throws(() => parseOvercommit(text))
})
