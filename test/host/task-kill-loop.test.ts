/** The bounded kill loop over tasks; by hand with more: npm run test:kill-loop -- --kills 1000 --tasks 3000. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { taskKinds } from '../kill-loop/task-kinds.ts'
import { runTaskKillLoop } from '../kill-loop/task-kill-loop.ts'

test('three hundred tasks under a daemon that is killed a hundred times each end once and rightly, with every byte they printed', async t => {
  const { broken, kills, killsUnderLoad, tasks, done } = await runTaskKillLoop(t, { kills: 102, tasks: 300, seed: 20260401 })
  assert.deepEqual(broken, [])
  assert.ok(kills >= 100 && tasks >= 300, `${kills} kills, ${tasks} tasks`)
  // Kills that hit nothing prove nothing.
  assert.ok(killsUnderLoad >= 100, `${killsUnderLoad} of ${kills} kills came before the last task had ended`)
  for (const kind of Object.keys(taskKinds)) assert.ok((done[`kind ${kind}`] ?? 0) > 0, kind)
  for (const what of ['push', 'push of a batch', 'cancel', 'follower cut off']) assert.ok((done[what] ?? 0) > 0, what)
})
