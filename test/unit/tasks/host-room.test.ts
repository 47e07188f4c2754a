import assert from 'node:assert/strict'
import { availableParallelism, totalmem } from 'node:os'
import { test } from 'node:test'
import { HostRoom, type KernelFigures } from '../../../src/services/tasks/host-room.ts'

const MiB = 1024 ** 2

function roomWith (options: { others?: Array<{ cpuMillis: number, memoryBytes: number }>, kernel?: Partial<KernelFigures> } = {}): HostRoom {
  return new HostRoom({
    cpuOvercommit: 2,
    reservedMemoryBytes: 1024 * MiB,
    stateDir: '/',
    overheadBytes: 64 * MiB,
    others: () => options.others ?? [],
    readKernel: async () => ({ availableMemoryBytes: 4096 * MiB, memoryPressurePercent: 0, freeDiskBytes: 10 * 1024 * MiB, ...options.kernel }),
  })
}

test('memory is promised once, processors as often as set', () => {
  const room = roomWith()
  assert.equal(room.capacity.cpuMillis, availableParallelism() * 2000)
  assert.equal(room.capacity.memoryBytes, totalmem() - 1024 * MiB)
})

test('each task and each other sandbox takes what it asks for and what the runtime needs for it', () => {
  const room = roomWith({ others: [{ cpuMillis: 500, memoryBytes: 100 * MiB }] })
  const held = [{ cpuMillis: 1000, memoryBytes: 256 * MiB }]
  assert.deepEqual(room.free(held), {
    cpuMillis: room.capacity.cpuMillis - 1500,
    memoryBytes: room.capacity.memoryBytes - (100 + 256 + 3 * 64) * MiB,
  })
})

test('a host that has promised more than it has is free of nothing, not of less', () => {
  const room = roomWith({ others: [{ cpuMillis: 1e9, memoryBytes: 1e15 }] })
  assert.deepEqual(room.free([]), { cpuMillis: 0, memoryBytes: 0 })
})

test('what fits on an empty host is what one task may ask for', () => {
  const room = roomWith()
  assert.deepEqual(room.free([]), room.largest)
})

for (const [name, kernel, expected] of [
  ['memory under pressure', { memoryPressurePercent: 10.5 }, 'memory_pressure'],
  ['hardly any memory available', { availableMemoryBytes: 500 * MiB }, 'memory_low'],
  ['a full disk', { freeDiskBytes: 100 * MiB }, 'disk_low'],
  ['a kernel that says nothing of pressure', { memoryPressurePercent: undefined }, undefined],
  ['nothing of the kind', {}, undefined],
] as const) {
  test(`held back by ${name}: ${expected ?? 'no'}`, async () => {
    assert.equal(await roomWith({ kernel }).heldBack(), expected)
  })
}

test('the figures of this kernel can be read', async () => {
  const room = new HostRoom({ cpuOvercommit: 1, reservedMemoryBytes: 0, stateDir: '/', overheadBytes: 0, others: () => [] })
  assert.ok([undefined, 'memory_pressure', 'disk_low'].includes(await room.heldBack()), 'memory is never low where none is reserved')
})
