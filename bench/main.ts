/**
 * npm run bench [SCENARIO…] [-- --n 15] [--only echo,exec,…] [--parts queue,…] [--quick] [--json]: ours, bare runsc, and podman's REST API where installed, interleaved
 * in one run; all scenarios but images, network, tasks, inside and fleet, which take minutes, when none is named. --parts: of tasks, inside or fleet. --quick: a tenth of what is
 * printed, sent and typed inside. A wrong result anywhere fails it. Whatever it made is removed, also on Ctrl-C.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { findProgram } from '../src/host/command.ts'
import { ResourceStack } from '../src/lib/resource-stack.ts'
import { BareRunsc } from './bare-runsc.ts'
import { BerthDaemon, readTemplate } from './berth-daemon.ts'
import type { Contestant } from './contestant.ts'
import { measureAdoption, measureConcurrentStarts, measureList, measureMemory } from './fleet-scenarios.ts'
import { judgeImages, printImages } from './images-report.ts'
import { fleetParts, measureFleet, type FleetPart } from './fleet.ts'
import { measureImages, type ImageOutcome } from './images.ts'
import { insideParts, measureInside, type InsidePart } from './inside.ts'
import { readMachineFacts } from './machine.ts'
import { judgeClaims, printClaims, type JudgedClaim } from './claims.ts'
import { measureNetworks } from './network.ts'
import { PodmanService } from './podman-service.ts'
import { judge, printMachine, printTable, type Row } from './report.ts'
import { measureTasks, taskParts, type TaskOutcome, type TaskPart } from './tasks.ts'
import { measureDelete, measureEcho, measureExec } from './single-scenarios.ts'

const scenarioNames = ['echo', 'exec', 'delete', 'concurrent', 'list', 'memory', 'adoption', 'images', 'network', 'tasks', 'inside', 'fleet'] as const
type ScenarioName = typeof scenarioNames[number]

const wholeDeadlineMs = 30 * 60_000
const defaultRounds = 15
const fleetRounds = 3
// A round of the images fetches one whole, ours and others', for minutes: only for whoever asks for it.
const defaultImageRounds = 3
const onlyByName: readonly ScenarioName[] = ['images', 'network', 'tasks', 'inside', 'fleet']

interface Options {
  n: number
  imageRounds: number
  only: readonly ScenarioName[]
  parts: readonly TaskPart[]
  insideParts: readonly InsidePart[]
  fleetParts: readonly FleetPart[]
  isQuick: boolean
  isJson: boolean
}

function readOptions (): Options {
  const { values, positionals } = parseArgs({
    options: { n: { type: 'string' }, only: { type: 'string' }, json: { type: 'boolean', default: false }, parts: { type: 'string' }, quick: { type: 'boolean', default: false } },
    allowPositionals: true,
  })
  const n = Number(values.n ?? defaultRounds)
  if (!Number.isInteger(n) || n < 1 || n > 1000) throw new Error('--n takes a whole number from 1 to 1000')
  const named = [...positionals, ...values.only?.split(',') ?? []] as ScenarioName[]
  const unknown = named.filter(name => !scenarioNames.includes(name))
  if (unknown.length > 0) throw new Error(`scenarios are ${scenarioNames.join(',')}; there is no ${unknown.join(', ')}`)
  const only = named.length > 0 ? named : scenarioNames.filter(name => !onlyByName.includes(name))
  const knownParts = [...taskParts, ...insideParts, ...fleetParts]
  const parts = values.parts?.split(',') ?? knownParts
  const unknownParts = parts.filter(part => !knownParts.some(known => known === part))
  if (unknownParts.length > 0) throw new Error(`parts of tasks are ${taskParts.join(',')}, those of inside ${insideParts.join(',')}, those of fleet ${fleetParts.join(',')}; there is no ${unknownParts.join(', ')}`)
  return {
    n,
    imageRounds: values.n === undefined ? defaultImageRounds : n,
    only,
    parts: taskParts.filter(part => parts.includes(part)),
    insideParts: insideParts.filter(part => parts.includes(part)),
    fleetParts: fleetParts.filter(part => parts.includes(part)),
    isQuick: values.quick,
    isJson: values.json,
  }
}

interface Bench {
  options: Options
  stack: ResourceStack
  dir: string
  signal: AbortSignal
  programs: Record<'runsc' | 'conmon' | 'catatonit' | 'podman', string | undefined>
  progress: (text: string) => void
}

/** Scenarios that compare: one daemon, one bare runtime, one podman, side by side. */
async function compare (bench: Bench): Promise<{ rows: Row[], podman: string }> {
  const { options: { n, only }, stack, dir, signal, programs, progress } = bench
  if (!only.some(name => ['echo', 'exec', 'delete', 'concurrent'].includes(name))) return { rows: [], podman: 'not asked' }
  const ours = await startDaemon(bench, 'ours')
  const echo = await readTemplate(ours, ['echo', 'hi'])
  const bare = await stack.acquire('bare runsc', async () => new BareRunsc({ dir: join(dir, 'bare'), path: programs.runsc ?? '', echo, idle: await readTemplate(ours) }), made => made.close())
  const contestants: Contestant[] = [ours, bare]
  const { podman } = programs
  if (podman) {
    const service = new PodmanService({
      dir: join(dir, 'podman'),
      podman,
      runsc: programs.runsc ?? '',
      init: programs.catatonit ?? '',
      rootfsDir: echo.lowerDirs.at(-1) ?? '',
      limits: (echo.config['linux'] as { resources: { memory: object, cpu: object, pids: object } }).resources,
    })
    stack.defer('podman', () => service.close())
    await service.start()
    contestants.push(service)
  }
  const rows: Row[] = []
  const scenarios: ReadonlyArray<[ScenarioName, () => Promise<Row>]> = [
    ['echo', () => measureEcho(contestants, { n, signal })],
    ['exec', () => measureExec(contestants, { n, signal })],
    ['delete', () => measureDelete(contestants, { n, signal })],
    ['concurrent', () => measureConcurrentStarts(ours, bare, { rounds: n, signal })],
  ]
  for (const [name, measure] of scenarios.filter(([name]) => only.includes(name))) {
    progress(name)
    rows.push(await measure())
  }
  return { rows, podman: podman ? 'its REST API, with the same runsc, userland, limits and init' : 'not installed' }
}

/** Scenarios of ours alone, each on a daemon that has seen nothing else. */
async function measureOurs (bench: Bench): Promise<Row[]> {
  const { options: { n, only }, stack, dir, signal, progress } = bench
  const rows: Row[] = []
  if (only.includes('list')) {
    progress('list')
    const daemon = await stack.acquire('the daemon of the list', () => new BerthDaemon(join(dir, 'list')), made => made.close())
    rows.push(await measureList(daemon, { n, signal }))
  }
  if (only.includes('memory') || only.includes('adoption')) {
    const daemon = await startDaemon(bench, 'fleet')
    progress('memory')
    const memory = await measureMemory(daemon, { signal })
    if (only.includes('memory')) rows.push(memory)
    if (only.includes('adoption')) {
      progress('adoption')
      rows.push(await measureAdoption(daemon, { running: 20, rounds: fleetRounds, signal }))
    }
  }
  return rows
}

async function compareImages ({ options, stack, dir, programs, signal, progress }: Bench): Promise<ImageOutcome | undefined> {
  if (!options.only.includes('images')) return undefined
  const { runsc = '', podman } = programs
  return await measureImages({ rounds: options.imageRounds, dir: join(dir, 'images'), stack, programs: { runsc, podman }, signal, progress })
}

async function judgeNetworks ({ options, stack, dir, programs, signal, progress }: Bench): Promise<JudgedClaim[]> {
  if (!options.only.includes('network')) return []
  const { runsc = '', podman } = programs
  return judgeClaims(await measureNetworks({ rounds: options.n, dir: join(dir, 'network'), stack, programs: { runsc, podman }, signal, progress }))
}

async function compareTasks ({ options, stack, dir, programs, signal, progress }: Bench): Promise<TaskOutcome | undefined> {
  if (!options.only.includes('tasks')) return undefined
  const { runsc = '', conmon = '' } = programs
  return await measureTasks({ parts: options.parts, dir: join(dir, 'tasks'), stack, programs: { runsc, conmon }, signal, progress })
}

async function compareInside ({ options: { n: rounds, insideParts: parts, isQuick, only }, stack, dir, programs, signal, progress }: Bench): Promise<TaskOutcome | undefined> {
  if (!only.includes('inside')) return undefined
  return await measureInside({ parts, rounds, isQuick, dir: join(dir, 'inside'), stack, programs: { runsc: programs.runsc ?? '' }, signal, progress })
}

async function compareFleet ({ options: { n: rounds, fleetParts: parts, only }, stack, dir, signal, progress }: Bench): Promise<TaskOutcome | undefined> {
  if (!only.includes('fleet')) return undefined
  return await measureFleet({ parts, rounds, dir: join(dir, 'fleet'), stack, signal, progress })
}

async function startDaemon ({ stack, dir }: Bench, name: string): Promise<BerthDaemon> {
  const daemon = new BerthDaemon(join(dir, name))
  stack.defer(`the daemon ${name}`, () => daemon.close())
  await daemon.start()
  return daemon
}

async function main (): Promise<number> {
  const options = readOptions()
  if (process.getuid?.() !== 0) throw new Error('the benchmark mounts and starts sandboxes: run it as root')
  const stopping = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort(new Error(`ended by ${signal}`)))
  const names = ['runsc', 'conmon', 'catatonit', 'podman'] as const
  const programs = Object.fromEntries(await Promise.all(names.map(async name => [name, findProgram(name)]))) as Bench['programs']
  const stack = new ResourceStack({ releaseDeadlineMs: 180_000 })
  const dir = await mkdtemp(join(tmpdir(), 'berth-bench-'))
  const progress = (text: string) => { process.stderr.write(`bench: ${new Date().toISOString().slice(11, 19)} ${text}\n`) }
  const bench = { options, stack, dir, programs, progress, signal: AbortSignal.any([stopping.signal, AbortSignal.timeout(wholeDeadlineMs)]) }
  try {
    const machine = await readMachineFacts(programs)
    if (!options.isJson) printMachine(machine, options.n)
    if (!programs.podman) progress('podman: not installed')
    const { rows, podman } = await compare(bench)
    const outcomes = [...rows, ...await measureOurs(bench)].map(judge)
    const images = await compareImages(bench)
    const imageRows = images ? judgeImages(images) : []
    const networkRows = await judgeNetworks(bench)
    const tasks = await compareTasks(bench)
    const taskRows = tasks ? judgeClaims(tasks.claims) : []
    const inside = await compareInside(bench)
    const insideRows = inside ? judgeClaims(inside.claims) : []
    const fleet = await compareFleet(bench)
    const fleetRows = fleet ? judgeClaims(fleet.claims) : []
    if (options.isJson) {
      process.stdout.write(`${JSON.stringify({ machine, n: options.n, podman, outcomes, image: images?.image, images: imageRows, networks: networkRows, tasks: taskRows, taskNotes: tasks?.notes, inside: insideRows, insideNotes: inside?.notes, fleet: fleetRows, fleetNotes: fleet?.notes }, null, 2)}\n`)
      return 0
    }
    if (outcomes.length > 0) printTable(outcomes, podman)
    if (images) printImages(imageRows, images, options.imageRounds)
    if (networkRows.length > 0) printClaims('networks: measured in namespaces of their own; every time is of the same run, those that are compared take turns', networkRows)
    if (tasks) printClaims(`tasks: what is compared takes turns; ${tasks.notes.join('; ')}`, taskRows)
    if (inside) printClaims(`inside: what is compared takes turns; ${inside.notes.join('; ')}`, insideRows)
    if (fleet) printClaims(`fleet: what is compared takes turns; ${fleet.notes.join('; ')}`, fleetRows)
    return 0
  } finally {
    progress('cleaning up')
    const failures = await stack.release()
    for (const { name, error } of failures) process.stderr.write(`bench: ${name} could not be released: ${String(error)}\n`)
    // What could not be reclaimed is found again by what lies in the directories: they are kept.
    if (failures.length === 0) await rm(dir, { recursive: true, force: true })
    else process.stderr.write(`bench: to try again: bin/berth serve --reclaim-and-exit --state-dir ${dir}/<daemon>/state --run-dir ${dir}/<daemon>/run\n`)
    if (failures.length > 0) process.exitCode = 1
  }
}

try {
  process.exitCode = await main() || process.exitCode
} catch (error) {
  process.stderr.write(`bench: ${(error as Error).message}\n`)
  process.exitCode = 1
}
