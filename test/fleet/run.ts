/**
 * The tests of a fleet by hand:
 *   bin/node24 test/fleet/run.ts chaos [--seed N] [--tasks N] [--real N] [--chaos-ms N] [--verbose] [--keep]
 *   bin/node24 test/fleet/run.ts simulate [--workers 1000] [--tasks 100000] [--rate TASKS_A_SECOND] [--batch 1000] [--processes 2] [--verbose]
 * Exits with 1 when anything was lost or doubled.
 */
import { parseArgs } from 'node:util'
import { runFleetChaos } from './fleet-chaos.ts'
import { runFleetSimulation } from './fleet-simulation.ts'
import { printSimulation } from './simulation-report.ts'

const { values, positionals: [command] } = parseArgs({
  allowPositionals: true,
  options: {
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    tasks: { type: 'string' },
    workers: { type: 'string', default: '1000' },
    rate: { type: 'string' },
    batch: { type: 'string', default: '1000' },
    processes: { type: 'string', default: '2' },
    real: { type: 'string', default: '60' },
    'chaos-ms': { type: 'string', default: '60000' },
    verbose: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  },
})

const releases: Array<() => Promise<void>> = []
const teardown = { after: (release: () => Promise<void>) => { releases.push(release) } }
if (command !== 'chaos' && command !== 'simulate') throw new Error('give chaos or simulate')
try {
  if (command === 'chaos') await chaos()
  else await simulate()
} finally {
  if (!values.keep) for (const release of releases.reverse()) await release()
}

async function chaos (): Promise<void> {
  console.log(`seed ${values.seed}`)
  const { broken, kills, ...counts } = await runFleetChaos(teardown, {
    seed: Number(values.seed),
    tasks: Number(values.tasks ?? 2000),
    realTasks: Number(values.real),
    chaosMs: Number(values['chaos-ms']),
    ...values.verbose && { onEvent: console.log },
  })
  console.table({ ...counts, ...Object.fromEntries(Object.entries(kills).map(([name, count]) => [`kills of ${name}`, count])), broken: broken.length })
  for (const line of broken) console.log(`BROKEN ${line}`)
  if (broken.length > 0) process.exitCode = 1
}

async function simulate (): Promise<void> {
  const result = await runFleetSimulation(teardown, {
    workers: Number(values.workers),
    tasks: Number(values.tasks ?? 100_000),
    batch: Number(values.batch),
    processes: Number(values.processes),
    ...values.rate !== undefined && { rate: Number(values.rate) },
    ...values.verbose && { onEvent: console.log },
  })
  printSimulation(result)
  if (result.broken.length > 0) process.exitCode = 1
}
