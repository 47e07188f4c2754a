import assert from 'node:assert/strict'
import { test } from 'node:test'
import { placeSandbox, type PlacementWish } from '../../../../src/gateway/sandboxes/placement.ts'
import type { WorkerRecord } from '../../../../src/gateway/worker-record.ts'
import { workerRecord } from '../proxy/proxy-rig.ts'

const GiB = 1024 ** 3
const room = { cpuMillis: 2000, memoryBytes: 2 * GiB }
const free = (cpuMillis: number, gib: number) => ({ free: { cpuMillis, memoryBytes: gib * GiB } })

test('a worker is taken that may, that has the labels, and that has room', () => {
  const cases: [name: string, workers: WorkerRecord[], wish: Partial<PlacementWish>, expected: string][] = [
    ['none at all', [], {}, 'workers'],
    ['draining', [workerRecord('a', { status: 'draining' })], {}, 'workers'],
    ['lost', [workerRecord('a', { isLost: true })], {}, 'workers'],
    ['without an API', [workerRecord('a', { apiUrl: '' })], {}, 'workers'],
    ['label missing', [workerRecord('a', { labels: { gpu: 'no' } })], { hostLabels: { gpu: 'yes' } }, 'labels'],
    ['label of the prototype', [workerRecord('a')], { hostLabels: { constructor: 'x' } }, 'labels'],
    ['all labels', [workerRecord('a', { labels: { gpu: 'yes' } }), workerRecord('b', { labels: { gpu: 'yes', zone: '1' } })], { hostLabels: { gpu: 'yes', zone: '1' } }, 'b'],
    ['too few cores', [workerRecord('a', free(1999, 32))], {}, 'room'],
    ['too little memory', [workerRecord('a', free(8000, 1))], {}, 'room'],
    ['just enough', [workerRecord('a', free(2000, 2))], {}, 'a'],
    ['the fullest that has room', [workerRecord('a', free(8000, 32)), workerRecord('b', free(3000, 8)), workerRecord('c', free(1000, 32))], {}, 'b'],
    ['refused before', [workerRecord('a', free(3000, 8)), workerRecord('b')], { refused: new Set(['a']) }, 'b'],
    ['all refused', [workerRecord('a')], { refused: new Set(['a']) }, 'room'],
  ]
  for (const [name, workers, wish, expected] of cases) {
    const placement = placeSandbox(workers, { room, ...wish })
    assert.equal('worker' in placement ? placement.worker.id : placement.missing, expected, name)
  }
})

test('where there is no room it is said how much there is', () => {
  const placement = placeSandbox([workerRecord('a', free(8000, 1)), workerRecord('b', free(500, 1.5))], { room })
  assert.deepEqual(placement, { missing: 'room', largest: { cpuMillis: 500, memoryBytes: 1.5 * GiB } })
})

test('of many, the freer one of two is taken, whichever two those are', () => {
  const workers = Array.from({ length: 10 }, (_, index) => workerRecord(`w${index}`, free(2000 + 500 * index, 32)))
  for (let first = 0; first < 10; first++) {
    for (let offset = 0; offset < 9; offset++) {
      const chosen = [first / 10, offset / 9 + 1e-9]
      const placement = placeSandbox(workers, { room }, () => chosen.shift()!)
      assert.ok('worker' in placement)
      assert.equal(placement.worker.id, `w${Math.max(first, (first + 1 + offset) % 10)}`)
    }
  }
})

test('a thousand placements on equal workers spread evenly', () => {
  const workers = Array.from({ length: 50 }, (_, index) => workerRecord(`w${index}`, { capacity: { cpuMillis: 100_000, memoryBytes: 100 * GiB }, ...free(100_000, 100) }))
  const count = new Map<string, number>()
  for (let placed = 0; placed < 1000; placed++) {
    const placement = placeSandbox(workers, { room })
    assert.ok('worker' in placement)
    const { worker } = placement
    worker.free = { cpuMillis: worker.free.cpuMillis - room.cpuMillis, memoryBytes: worker.free.memoryBytes - room.memoryBytes }
    count.set(worker.id, (count.get(worker.id) ?? 0) + 1)
  }
  // 20 each on average; chosen blindly, the fullest of 50 has about 32.
  assert.ok(Math.max(...count.values()) <= 26, `${Math.max(...count.values())}`)
})
