/**
 * `berth serve` whose set-up steps fail on demand. A sandbox asks for its fault by its label `fault`,
 * `<step>.<acquire|release>.<before|after>.<throw|refuse|kill>`: before or after the step has done its work,
 * throw (any error), refuse (an error made for the client), or SIGKILL of the daemon. Each fault strikes once.
 *
 * Every call of a step is a line in the file BERTH_TEST_JOURNAL: `<sandbox id> <acquire|release> <step> <begin|end>`,
 * and every fault `<sandbox id> fault <label>`.
 */
import { appendFileSync, readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { destination, pino } from 'pino'
import { readConfig } from '../../src/config.ts'
import { startDaemon } from '../../src/daemon.ts'
import { BerthError } from '../../src/errors.ts'
import type { SandboxRecord } from '../../src/services/sandboxes/sandbox-record.ts'
import type { SandboxStep } from '../../src/services/sandboxes/sandbox-steps.ts'

process.umask(0o022)
const journalPath = process.env['BERTH_TEST_JOURNAL'] ?? ''
if (journalPath === '') throw new Error('BERTH_TEST_JOURNAL is not set')

function write (line: string): void {
  // Synchronous: the next thing may be the end of this process.
  appendFileSync(journalPath, `${line}\n`)
}

function hasStruck (record: SandboxRecord, fault: string): boolean {
  return readFileSync(journalPath, 'utf8').includes(`${record.id} fault ${fault}\n`)
}

function strike (record: SandboxRecord, at: { step: string, phase: string, when: string }): void {
  const place = `${at.step}.${at.phase}.${at.when}.`
  const fault = record.labels['fault'] ?? ''
  if (!fault.startsWith(place) || hasStruck(record, fault)) return
  write(`${record.id} fault ${fault}`)
  const how = fault.slice(place.length)
  if (how === 'kill') process.kill(process.pid, 'SIGKILL')
  if (how === 'refuse') throw new BerthError('exhausted', 'fault_injected', `the step ${at.step} refuses`)
  throw new Error(`the step ${at.step} fails`)
}

function wrap (step: SandboxStep): SandboxStep {
  const around = async (record: SandboxRecord, phase: 'acquire' | 'release', work: () => Promise<void>) => {
    write(`${record.id} ${phase} ${step.name} begin`)
    strike(record, { step: step.name, phase, when: 'before' })
    await work()
    strike(record, { step: step.name, phase, when: 'after' })
    write(`${record.id} ${phase} ${step.name} end`)
  }
  return {
    ...step,
    acquire: (record, signal, request) => around(record, 'acquire', () => step.acquire(record, signal, request)),
    release: record => around(record, 'release', () => step.release(record)),
  }
}

appendFileSync(journalPath, '')
const { values } = parseArgs({
  options: {
    'state-dir': { type: 'string' },
    'run-dir': { type: 'string' },
    listen: { type: 'string' },
    'reclaim-and-exit': { type: 'boolean' },
  },
})
const config = readConfig({ stateDir: values['state-dir'], runDir: values['run-dir'], listen: values.listen, reclaimAndExit: values['reclaim-and-exit'] }, process.env)
const logger = pino({ level: config.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ dest: 2, sync: true }))
const daemon = await startDaemon({ config, logger, version: '0.0.0-faulty', wrapSteps: steps => steps.map(wrap) })
if (!config.reclaimAndExit) {
  logger.info({ url: daemon.url }, 'berth is ready')
  process.once('SIGTERM', () => { void daemon.close() })
}
