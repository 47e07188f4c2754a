import { test } from 'node:test'
import assert from 'node:assert/strict'
import { bucketOf } from '../../../src/host/traffic-control.ts'

const parse = (bitsPerSecond: number) => {
  const [, rate, burst, limit] = /^rate (\d+)bit burst (\d+) limit (\d+)$/.exec(bucketOf(bitsPerSecond)) ?? assert.fail('it is a bucket')
  return { rate: Number(rate), burst: Number(burst), limit: Number(limit) }
}

test('a bucket of any rate holds some packets, queues more than it holds, and fits into 32 bits', () => {
  for (const bitsPerSecond of [64_000, 1_000_000, 1_000_000_001, 100_000_000_000]) {
    const { rate, burst, limit } = parse(bitsPerSecond)
    assert.equal(rate, bitsPerSecond)
    assert.ok(burst >= 10 * 1514 && limit > burst && limit < 2 ** 32, `${bitsPerSecond}: ${burst}, ${limit}`)
  }
})

test('what a bucket holds grows with the rate, so that fast ones need no exact timers', () => {
  assert.equal(parse(10_000_000_000).burst, 10 * parse(1_000_000_000).burst)
})
