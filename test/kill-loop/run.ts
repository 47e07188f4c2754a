/**
 * The kill loop by hand: `npm run test:kill-loop -- [--kills N] [--seed N] [--concurrency N] [--keep]`.
 * Exits with 1 when anything was lost. --keep leaves the daemon's directories and logs to be looked at.
 */
import { parseArgs } from 'node:util'
import { runKillLoop } from './kill-loop.ts'

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '120' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    concurrency: { type: 'string', default: '4' },
    keep: { type: 'boolean', default: false },
  },
})

const releases: Array<() => Promise<void>> = []
const kills = Number(values.kills)
const seed = Number(values.seed)
console.log(`kill loop: ${kills} kills, seed ${seed}, concurrency ${values.concurrency}`)
try {
  const summary = await runKillLoop({ after: release => releases.push(release) }, {
    kills,
    seed,
    concurrency: Number(values.concurrency),
    onKill: kill => { if (kill % 10 === 0) console.log(`${kill} kills`) },
  })
  const { done, broken, durationMs, ...counts } = summary
  console.table({ ...counts, seconds: Math.round(durationMs / 1000), ...done, broken: broken.length })
  for (const line of broken) console.log(`BROKEN ${line}`)
  if (broken.length > 0) process.exitCode = 1
} finally {
  if (!values.keep) for (const release of releases) await release()
}
