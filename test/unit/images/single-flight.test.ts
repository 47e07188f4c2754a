import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SingleFlight } from '../../../src/services/images/single-flight.ts'

test('calls for the same key share one run, calls for another do not', async () => {
  const flight = new SingleFlight<number>()
  const gate = Promise.withResolvers<number>()
  let runs = 0
  const work = () => { runs++; return gate.promise }
  const both = [flight.run('a', undefined, work), flight.run('a', undefined, work)]
  assert.equal(await flight.run('b', undefined, async () => 2), 2)
  gate.resolve(1)
  assert.deepEqual(await Promise.all(both), [1, 1])
  assert.equal(runs, 1)
})

test('a failure reaches every waiter and the next call runs again', async () => {
  const flight = new SingleFlight<number>()
  const gate = Promise.withResolvers<number>()
  const waiters = [flight.run('a', undefined, () => gate.promise), flight.run('a', undefined, () => gate.promise)]
  gate.reject(new Error('broken'))
  for (const outcome of await Promise.allSettled(waiters)) assert.equal(outcome.status, 'rejected')
  assert.equal(await flight.run('a', undefined, async () => 3), 3)
})

test('an abort ends only the wait of the one who aborts', async () => {
  const flight = new SingleFlight<number>()
  const gate = Promise.withResolvers<number>()
  const controller = new AbortController()
  const first = flight.run('a', controller.signal, () => gate.promise)
  const second = flight.run('a', undefined, () => gate.promise)
  controller.abort(new Error('gone'))
  await assert.rejects(first, /gone/)
  gate.resolve(4)
  assert.equal(await second, 4)
})

test('a failure after every waiter has gone disturbs nobody', async () => {
  const flight = new SingleFlight<number>()
  const gate = Promise.withResolvers<number>()
  const controller = new AbortController()
  const only = flight.run('a', controller.signal, () => gate.promise)
  controller.abort(new Error('gone'))
  await assert.rejects(only, /gone/)
  gate.reject(new Error('broken'))
  await flight.settled()
})
