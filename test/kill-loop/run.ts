/**
 * The kill loops by hand: `npm run test:kill-loop -- [--kills N] [--seed N] [--concurrency N] [--tasks N] [--keep]`.
 * --tasks runs the loop over so many tasks in the place of the one over sandboxes. Exits with 1 when anything was lost.
 * --keep leaves the daemon's directories and logs to be looked at.
 */
import { parseArgs } from 'node:util'
import { runKillLoop } from './kill-loop.ts'
import { runTaskKillLoop } from './task-kill-loop.ts'

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '120' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    concurrency: { type: 'string', default: '4' },
    tasks: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
})

const releases: Array<() => Promise<void>> = []
const teardown = { after: (release: () => Promise<void>) => { releases.push(release) } }
const kills = Number(values.kills)
const seed = Number(values.seed)
const onKill = (kill: number) => { if (kill % 10 === 0) console.log(`${kill} kills`) }

async function run () {
  if (values.tasks !== undefined) {
    console.log(`kill loop over tasks: ${kills} kills, ${values.tasks} tasks, seed ${seed}`)
    return await runTaskKillLoop(teardown, { kills, seed, tasks: Number(values.tasks), onKill })
  }
  console.log(`kill loop: ${kills} kills, seed ${seed}, concurrency ${values.concurrency}`)
  return await runKillLoop(teardown, { kills, seed, concurrency: Number(values.concurrency), onKill })
}

try {
  const { done, broken, durationMs, ...counts } = await run()
  console.table({ ...counts, seconds: Math.round(durationMs / 1000), ...done, broken: broken.length })
  for (const line of broken) console.log(`BROKEN ${line}`)
  if (broken.length > 0) process.exitCode = 1
} finally {
  // The newest first: what was started last stands on what was there.
  if (!values.keep) for (const release of releases.reverse()) await release()
}
