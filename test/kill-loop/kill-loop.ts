/** Kills a daemon at random moments under load, again and again, and counts what was lost. */
import type { ExecPage } from '../../src/schemas/exec.ts'
import type { Sandbox, SandboxPage } from '../../src/schemas/sandbox.ts'
import { findRemains } from '../support/remains.ts'
import { TestDaemon, type Teardown } from '../support/test-daemon.ts'
import { Ledger } from './ledger.ts'
import { killAgainAndAgain } from './killing.ts'
import { endPrinter, startPrinters, tellStories, type Load } from './load.ts'
import { PatientClient } from './patient-client.ts'
import { seededRandom } from './random.ts'
import { SandboxCalls } from './sandbox-calls.ts'

export interface KillLoopOptions {
  kills: number
  seed: number
  /** How many stories are told at the same time. */
  concurrency: number
  onKill?: (kill: number) => void
}

export interface KillLoopSummary {
  kills: number
  /** Of those, how many hit a daemon that had not come to be ready. */
  killsWhileStarting: number
  durationMs: number
  lostConnections: number
  logLines: number
  done: Record<string, number>
  /** Every promise that was broken, and everything that was left. Empty: nothing was lost. */
  broken: string[]
}

const longestLifeMs = 1200

export async function runKillLoop (t: Teardown, options: KillLoopOptions): Promise<KillLoopSummary> {
  const startedMs = performance.now()
  const random = seededRandom(options.seed)
  const daemon = await TestDaemon.start(t, { env: { BERTH_LOG_LEVEL: 'debug' } })
  const client = new PatientClient(daemon.socketPath)
  const calls = new SandboxCalls(client, new Ledger())
  const load: Load = { calls, random, printers: await startPrinters(calls, 2), sleepers: await startPrinters(calls, 1) }
  const ending = new AbortController()
  const stories = Array.from({ length: options.concurrency }, () => tellStories(load, ending.signal))
  const killsWhileStarting = await killAgainAndAgain(daemon, random, { ...options, longestLifeMs })
  ending.abort()
  await Promise.all(stories)
  const logLines = await checkAll(load)
  await removeAll(daemon, calls)
  return {
    kills: options.kills,
    killsWhileStarting,
    durationMs: performance.now() - startedMs,
    lostConnections: client.losses,
    logLines,
    done: Object.fromEntries([...calls.ledger.done].sort()),
    broken: calls.ledger.broken,
  }
}

/** Holds every answer against what is so. Answers how many numbered lines were checked. */
async function checkAll ({ calls, printers, sleepers }: Load): Promise<number> {
  const { ledger } = calls
  for (const { sandboxId, execId } of [...ledger.execs]) await calls.checkExec(sandboxId, execId)
  let lines = 0
  for (const printer of [...printers, ...sleepers]) lines += await endPrinter(calls, printer)
  const all = await listAll(calls)
  for (const { id } of [...printers, ...sleepers]) await checkDoubles(calls, id)
  const known = new Set<string>()
  for (const [op, { id, fate }] of ledger.creates) {
    known.add(op)
    const present = all.filter(sandbox => sandbox.labels['op'] === op && sandbox.deletedAt === undefined)
    const wanted = fate === 'kept' ? [id] : []
    ledger.expect(present.map(sandbox => sandbox.id).join() === wanted.join(), () => `${op} should have left [${wanted.join()}], and left [${present.map(({ id, status }) => `${id} ${status}`).join()}]`)
  }
  for (const sandbox of all) {
    const op = sandbox.labels['op'] ?? ''
    ledger.expect(known.has(op) || sandbox.deletedAt !== undefined, () => `${sandbox.id} (${op}) is there, but nobody was told of it`)
    ledger.expect(['stopped', 'created', 'failed', 'running'].includes(sandbox.status), () => `${sandbox.id} is still ${sandbox.status}`)
    ledger.expect(sandbox.leaks.length === 0, () => `${sandbox.id} leaks: ${JSON.stringify(sandbox.leaks)}`)
    // Only what was being set up when its daemon was killed may have failed.
    const isRollback = sandbox.deletedAt !== undefined && sandbox.end?.step === 'daemon'
    ledger.expect(sandbox.status !== 'failed' || isRollback, () => `${sandbox.id} failed: ${JSON.stringify(sandbox.end)}`)
  }
  return lines
}

/** Each operation has a program of its own: one that is there twice was started twice. */
async function checkDoubles (calls: SandboxCalls, id: string): Promise<void> {
  const { body } = await calls.client.send<ExecPage>('GET', `/sandboxes/${id}/execs?limit=1000`)
  const programs = body.items.map(({ argv }) => argv.join(' '))
  const doubles = programs.filter((program, index) => programs.indexOf(program) !== index)
  for (const program of doubles) calls.ledger.blame(`a detached exec that was asked for once runs twice in ${id}: ${program}`)
}

async function listAll (calls: SandboxCalls): Promise<Sandbox[]> {
  const all: Sandbox[] = []
  for (let cursor = ''; ;) {
    const { body } = await calls.client.send<SandboxPage>('GET', `/sandboxes?deleted=true&limit=1000${cursor}`)
    all.push(...body.items)
    if (body.nextCursor === undefined) return all
    cursor = `&cursor=${body.nextCursor}`
  }
}

/** Deletes every sandbox, and looks at what is left on the host. */
async function removeAll (daemon: TestDaemon, calls: SandboxCalls): Promise<void> {
  for (const { id, deletedAt } of await listAll(calls)) {
    if (deletedAt === undefined) await calls.remove('', id)
  }
  for (const left of await findRemains(daemon)) calls.ledger.blame(`left on the host: ${left}`)
  await daemon.end('SIGTERM')
  const exitCode = await daemon.reclaim()
  calls.ledger.expect(exitCode === 0, () => `--reclaim-and-exit ended with ${exitCode}`)
  for (const left of await daemon.leftovers()) calls.ledger.blame(`left after --reclaim-and-exit: ${left}`)
}
