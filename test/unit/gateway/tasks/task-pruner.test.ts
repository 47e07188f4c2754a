import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { TaskPruner } from '../../../../src/gateway/tasks/task-pruner.ts'
import { pollUntil } from '../../../../src/lib/poll.ts'

const withinMs = 10_000

function build (t: TestContext, { ended, fails = false }: { ended: number, fails?: boolean }) {
  const state = { ended, turns: 0, turnsUntilDone: 0, steps: 0, underWay: 0, most: 0, errors: 0 }
  const pruner = new TaskPruner({
    table: {
      prune: async () => {
        state.most = Math.max(state.most, ++state.underWay)
        await new Promise(resolve => { setImmediate(resolve) })
        state.underWay--
        state.steps++
        if (fails) throw new Error('Redis is away')
        const forgotten = Math.min(100, state.ended)
        state.ended -= forgotten
        if (forgotten > 0) state.turnsUntilDone = state.turns
        return forgotten
      },
    },
    before: async () => { state.turns++ },
    isReady: () => true,
    onError: () => { state.errors++ },
    everyMs: 1,
  })
  t.after(() => pruner.close())
  return { state, pruner }
}

test('however many tasks have ended, all past their time are forgotten at a time, in one step after the other', async t => {
  const { state } = build(t, { ended: 12_345 })
  assert.ok(await pollUntil(async () => state.ended === 0, withinMs))
  assert.deepEqual([state.most, state.turnsUntilDone], [1, 1])
})

test('a step that fails is told, and tried again the next time', async t => {
  const { state } = build(t, { ended: 1, fails: true })
  assert.ok(await pollUntil(async () => state.errors > 2, withinMs))
  assert.equal(state.steps >= state.errors, true)
})

test('a step under way comes to its end before it is closed, however much is left', async t => {
  const { state, pruner } = build(t, { ended: Infinity })
  assert.ok(await pollUntil(async () => state.steps > 0, withinMs))
  await pruner.close()
  assert.equal(state.underWay, 0)
})
