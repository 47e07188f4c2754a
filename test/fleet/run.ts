/**
 * The tests of a fleet by hand:
 *   bin/node24 test/fleet/run.ts chaos [--seed N] [--tasks N] [--real N] [--chaos-ms N] [--verbose] [--keep]
 * Exits with 1 when anything was lost or doubled.
 */
import { parseArgs } from 'node:util'
import { runFleetChaos } from './fleet-chaos.ts'

const { values, positionals: [command] } = parseArgs({
  allowPositionals: true,
  options: {
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    tasks: { type: 'string', default: '2000' },
    real: { type: 'string', default: '60' },
    'chaos-ms': { type: 'string', default: '60000' },
    verbose: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  },
})

const releases: Array<() => Promise<void>> = []
const teardown = { after: (release: () => Promise<void>) => { releases.push(release) } }
if (command !== 'chaos') throw new Error('give chaos')
try {
  console.log(`seed ${values.seed}`)
  const { broken, kills, ...counts } = await runFleetChaos(teardown, {
    seed: Number(values.seed),
    tasks: Number(values.tasks),
    realTasks: Number(values.real),
    chaosMs: Number(values['chaos-ms']),
    ...values.verbose && { onEvent: console.log },
  })
  console.table({ ...counts, ...Object.fromEntries(Object.entries(kills).map(([name, count]) => [`kills of ${name}`, count])), broken: broken.length })
  for (const line of broken) console.log(`BROKEN ${line}`)
  if (broken.length > 0) process.exitCode = 1
} finally {
  if (!values.keep) for (const release of releases.reverse()) await release()
}
