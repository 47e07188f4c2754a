/** The bounded kill loop of continuous integration; by hand with more: npm run test:kill-loop -- --kills 1000. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runKillLoop } from '../kill-loop/kill-loop.ts'

test('a daemon killed fifty times under load loses no sandbox, no log byte and no exit code, and leaks nothing', async t => {
  const { broken, kills, done, logLines } = await runKillLoop(t, { kills: 50, seed: 20260301, concurrency: 3 })
  assert.deepEqual(broken, [])
  assert.ok(kills >= 50)
  assert.ok(logLines > 0)
  // The load has come to every kind of call, or the loop proves nothing.
  for (const what of ['create', 'delete', 'attached exec', 'detached exec checked', 'pause', 'resume', 'stop', 'start', 'set network', 'deadline kept']) assert.ok((done[what] ?? 0) > 0, what)
})
