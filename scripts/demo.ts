/**
 * `npm run demo`: a daemon on temporary directories, a program in a gVisor sandbox, and a daemon killed under a running
 * task that loses nothing: neither a line of its log nor its result. Ends with the host as it was.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { LogRecord } from '../src/schemas/log.ts'
import type { Task } from '../src/schemas/task.ts'
import { berth, endDaemon, endDaemons, interruption, lastLogLines, reclaim, show, startDaemon, step, type Places } from './demo-steps.ts'
import { rememberHost } from './leftovers.ts'
import { pc } from './print.ts'

const image = 'berth/base'
const lineCount = 100
// Long enough for the daemon to be away a while in the middle of it.
const exitCode = 7
const counting = `i=0; while [ $i -lt ${lineCount} ]; do i=$((i + 1)); echo "line $i"; sleep 0.05; done; exit ${exitCode}`
const tour = 'echo "hello from a sandbox named $(hostname)"; uname -sr; id; echo "and its kernel says (dmesg):"; dmesg | head -n 4'

if (process.getuid?.() !== 0) {
  console.log('demo: sandboxes are made by root, so this goes on with sudo')
  process.exit(spawnSync('sudo', [process.execPath, ...process.execArgv, ...process.argv.slice(1)], { stdio: 'inherit' }).status ?? 1)
}

const places = makePlaces()
const host = rememberHost(places.tempDir)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => interruption.abort(new Error(`interrupted by ${signal}`)))

const startedAt = performance.now()
try {
  await demonstrate()
} catch (error) {
  process.exitCode = 1
  const reason = interruption.signal.aborted ? interruption.signal.reason as Error : error as Error
  console.error(`\n${pc.red('The demo failed:')} ${reason.message}`)
  const log = lastLogLines(places)
  if (log !== '' && !interruption.signal.aborted) console.error(`\nThe daemon's last words:\n${log}`)
} finally {
  await tidy()
}
if (process.exitCode === undefined) {
  console.log(`\n${pc.bold('That was Berth')}, in ${((performance.now() - startedAt) / 1000).toFixed(1)} s. Next: sudo bin/berth serve, then bin/berth --help and README.md`)
}

function makePlaces (): Places {
  const tempDir = mkdtempSync('/tmp/berth-demo-')
  const [stateDir, runDir] = [join(tempDir, 'state'), join(tempDir, 'run')]
  mkdirSync(stateDir, { mode: 0o700 })
  mkdirSync(runDir, { mode: 0o700 })
  return { tempDir, stateDir, runDir, socket: join(runDir, 'berth.sock'), daemonLog: join(tempDir, 'daemon.log') }
}

async function demonstrate (): Promise<void> {
  const daemon = await step('the daemon starts, on a state directory of its own', () => startDaemon(places))
  const output = await step(`berth run ${image}: a program in a gVisor sandbox`, () => berth(places, 'run', '--quiet', '--rm', image, 'sh', '-c', tour))
  show(output)
  if (!/gvisor/i.test(output)) throw new Error('the kernel in the sandbox is not gVisor')

  const counter = JSON.parse(await step('berth run -d: a task counts in a sandbox of its own',
    () => berth(places, 'run', '-d', '--json', image, 'sh', '-c', counting))) as Task
  const { sandboxId, timings = [] } = counter.attempts.at(-1) ?? {}
  if (sandboxId === undefined) throw new Error(`the task has no sandbox: ${JSON.stringify(counter)}`)
  show(`its set-up: ${timings.map(({ step: name, durationMs }) => `${name} ${Math.round(durationMs)} ms`).join(', ')}`)

  show(await step('what it tries to reach is refused: networks are closed unless opened', () => tryNetwork(sandboxId)))

  const killedAt = new Date()
  await step(`kill -9 ${daemon.pid}: the daemon dies, with the task running`, () => endDaemon(daemon, 'SIGKILL'))
  await delay(500, undefined, { signal: interruption.signal })
  await step('another daemon starts, and adopts what it finds', () => startDaemon(places))
  const awayUntil = new Date()
  const adopted = await findTask(counter.id)
  show(`${adopted.id} is ${adopted.status}${adopted.sandboxId === sandboxId ? ', in the same sandbox' : ''}`)

  const result = await step('berth wait: the task ends once, with its own result', () => berth(places, 'wait', counter.id))
  show(`exit code ${result}`)
  checkResult(await findTask(counter.id), sandboxId)
  const records = (await berth(places, 'logs', '--json', counter.id)).trimEnd().split('\n').map((line) => JSON.parse(line) as LogRecord)
  checkLog(records, killedAt, awayUntil)
  await step('berth rm: the task is deleted; its sandbox went with its end', () => berth(places, 'rm', counter.id))
}

/** Answers what the host has written down about it. */
async function tryNetwork (id: string): Promise<string> {
  await berth(places, 'exec', id, 'sh', '-c', 'nc -w 2 203.0.113.1 443 < /dev/null; nslookup example.com; true')
  // Decisions are merged for a second.
  for (;;) {
    const decisions = await berth(places, 'network', 'decisions', id, '--denied')
    if (decisions.includes('203.0.113.1') && decisions.includes('example.com')) return decisions
    await delay(100, undefined, { signal: interruption.signal })
  }
}

async function findTask (id: string): Promise<Task> {
  const [task] = JSON.parse(await berth(places, 'inspect', id)) as Task[]
  if (task === undefined) throw new Error(`the daemon no longer knows ${id}`)
  return task
}

/** It ran once, in the sandbox that both daemons knew. */
function checkResult ({ status, end, attempts }: Task, sandboxId: string): void {
  const ran = attempts.map((attempt) => attempt.sandboxId).join(', ')
  if (status !== 'failed' || end?.exitCode !== exitCode || ran !== sandboxId) throw new Error(`it ended as ${status} in ${ran}: ${JSON.stringify(end)}`)
}

/** Every line is there, once and in order, those too that were written while no daemon answered. */
function checkLog (records: readonly LogRecord[], killedAt: Date, awayUntil: Date): void {
  const lines = records.filter((record) => record.type === 'line')
  const expected = Array.from({ length: lineCount }, (_, index) => `line ${index + 1}`)
  if (lines.map(({ text }) => text).join('\n') !== expected.join('\n')) throw new Error(`the log is not whole: ${lines.length} of ${lineCount} lines`)
  const meanwhile = lines.filter(({ at }) => new Date(at) > killedAt && new Date(at) < awayUntil).length
  show(`its log is whole: ${lines.length} of ${lineCount} lines, ${meanwhile} of them written while no daemon answered`)
}

/** Ends every daemon, takes back what they made, and looks whether anything is left. Runs on failure and on Ctrl-C too. */
async function tidy (): Promise<void> {
  try {
    await step('the daemon ends, and everything it made is taken back', async () => {
      await endDaemons()
      await reclaim(places)
    })
    // Files are removed when no mount and no process is left, never across a mount.
    const left = (await host.find()).filter((line) => !line.startsWith('temporary file'))
    if (left.length > 0) throw new Error(`left on the host:\n${left.join('\n')}`)
    rmSync(places.tempDir, { recursive: true })
    console.log(`${pc.green('ok')} nothing is left: no mount, no control group, no process, no file`)
  } catch (error) {
    process.exitCode = 1
    console.error(`${pc.red('The clean-up failed:')} ${(error as Error).message}\nIts files are in ${places.tempDir}`)
  }
}
