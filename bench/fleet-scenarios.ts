/** Scenarios with many sandboxes at once: starts side by side, a long list, memory at rest, adoption after kill -9. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { randomId } from '../src/lib/id.ts'
import type { SandboxPage } from '../src/schemas/sandbox.ts'
import type { SandboxRecord } from '../src/services/sandboxes/sandbox-record.ts'
import type { BareRunsc } from './bare-runsc.ts'
import type { BerthDaemon } from './berth-daemon.ts'
import { mustBe, timed } from './contestant.ts'
import { findPids, readProcessMemory, type ProcessMemory } from './machine.ts'
import type { Row } from './report.ts'
import { median } from './statistics.ts'

const concurrentStarts = 20
const listedSandboxes = 500
const memorySandboxes = 20
const adoptedSandboxes = 50

export async function measureConcurrentStarts (ours: BerthDaemon, bare: BareRunsc, options: { rounds: number, signal: AbortSignal }): Promise<Row> {
  const samples = { ours: [] as number[], bare: [] as number[] }
  const measureOurs = async () => {
    const ids: string[] = []
    const durationMs = await timed(async () => { ids.push(...await allOf(concurrentStarts, () => ours.startIdle())) })
    for (const id of ids) await ours.remove(id)
    samples.ours.push(concurrentStarts / durationMs * 1000)
  }
  const measureBare = async () => {
    const ids = await allOf(concurrentStarts, () => bare.prepareIdle())
    const durationMs = await timed(() => Promise.all(ids.map(id => bare.startPrepared(id))))
    await Promise.all(ids.map(id => bare.removeDetached(id)))
    samples.bare.push(concurrentStarts / durationMs * 1000)
  }
  for (let round = 0; round < options.rounds; round++) {
    for (const measure of round % 2 === 0 ? [measureOurs, measureBare] : [measureBare, measureOurs]) {
      options.signal.throwIfAborted()
      await measure()
    }
  }
  return { scenario: `${concurrentStarts} concurrent creates → running`, unit: '/s', samples, target: { of: 'ratio', bound: 'at least', limit: 0.8 } }
}

/** The list of a daemon that found many records of stopped sandboxes when it started. */
export async function measureList (daemon: BerthDaemon, options: { n: number, signal: AbortSignal }): Promise<Row> {
  for (let index = 0; index < listedSandboxes; index++) await writeStoppedRecord(daemon.stateDir, index)
  await daemon.start()
  const samples: number[] = []
  for (let round = -warmUps; round < options.n; round++) {
    options.signal.throwIfAborted()
    let page: SandboxPage | undefined
    const durationMs = await timed(async () => { page = await daemon.request<SandboxPage>('GET', `/v1/sandboxes?limit=${listedSandboxes}`, 200) })
    mustBe('the length of the list', page?.items.length, listedSandboxes)
    if (round >= 0) samples.push(durationMs)
  }
  return { scenario: `list of ${listedSandboxes} sandboxes`, unit: 'ms', samples: { ours: samples }, target: { of: 'value', bound: 'at most', limit: 10 } }
}

const warmUps = 5

/** What each idle sandbox adds: its monitor, and its share of what the daemon grew by. The runtime's own processes are not ours. */
export async function measureMemory (daemon: BerthDaemon, options: { signal: AbortSignal }): Promise<Row> {
  // The code paths of a create are compiled and the heap has its working size before anything is counted.
  for (let round = 0; round < warmUps; round++) await daemon.remove(await daemon.startIdle())
  await settle()
  const before = await readProcessMemory(daemon.pid)
  for (let index = 0; index < memorySandboxes; index++) {
    options.signal.throwIfAborted()
    await daemon.startIdle()
  }
  await settle()
  const after = await readProcessMemory(daemon.pid)
  const monitors = await Promise.all((await findPids('conmon', daemon.stateDir)).map(readProcessMemory))
  mustBe('the number of monitors', monitors.length, memorySandboxes)
  const conmon = (field: keyof ProcessMemory) => median(monitors.map(monitor => monitor[field])) / 1024
  const growth = (after.rssKiB - before.rssKiB) / 1024 / memorySandboxes
  return {
    scenario: 'memory of ours per idle sandbox',
    unit: 'MB',
    samples: { ours: [conmon('pssKiB') + Math.max(0, growth)] },
    target: { of: 'value', bound: 'at most', limit: 5 },
    note: `conmon ${conmon('pssKiB').toFixed(2)} MB PSS (${conmon('rssKiB').toFixed(2)} MB RSS), and ${growth.toFixed(2)} MB of the daemon's RSS ` +
      `(${(before.rssKiB / 1024).toFixed(0)} → ${(after.rssKiB / 1024).toFixed(0)} MB over ${memorySandboxes} sandboxes)`,
  }
}

/** Kills the daemon over running sandboxes; how long until the next one has adopted them. Takes over the sandboxes that run already. */
export async function measureAdoption (daemon: BerthDaemon, options: { running: number, rounds: number, signal: AbortSignal }): Promise<Row> {
  for (let index = options.running; index < adoptedSandboxes; index++) {
    options.signal.throwIfAborted()
    await daemon.startIdle()
  }
  const samples: number[] = []
  const readyMs: number[] = []
  for (let round = 0; round < options.rounds; round++) {
    options.signal.throwIfAborted()
    await daemon.kill()
    readyMs.push(await daemon.start())
    const { adoptedMs } = daemon.logLines().find(({ msg }) => msg === 'the host is reconciled') ?? {}
    samples.push(adoptedMs ?? NaN)
    const { items } = await daemon.request<SandboxPage>('GET', '/v1/sandboxes?status=running&limit=500', 200)
    mustBe('the number of sandboxes that run after kill -9', items.length, adoptedSandboxes)
    await Promise.all(items.map(({ id }) => daemon.execTrue(id)))
  }
  return {
    scenario: `adoption of ${adoptedSandboxes} sandboxes after kill -9`,
    unit: 'ms',
    samples: { ours: samples },
    target: { of: 'value', bound: 'at most', limit: 1000 },
    note: `from the start of the process until /readyz: ${median(readyMs).toFixed(0)} ms`,
  }
}

function allOf<T> (count: number, work: () => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, work))
}

/** Idle collections and the exits of short children are over by then. */
async function settle (): Promise<void> {
  await delay(2000)
}

async function writeStoppedRecord (stateDir: string, index: number): Promise<void> {
  const id = randomId('sbx')
  const at = new Date(Date.now() - index * 1000).toISOString()
  const record: SandboxRecord = {
    version: 1,
    id,
    status: 'stopped',
    image: { reference: 'berth/base' },
    request: { env: {}, entrypoint: ['echo', 'hi'] },
    process: { argv: ['echo', 'hi'], env: { PATH: '/usr/bin:/bin', HOME: '/' }, cwd: '/workspace', user: '1000:1000', uid: 1000, gid: 1000, additionalGids: [] },
    resources: { cpuMillis: 2000, memoryBytes: 2 * 1024 ** 3, pids: 512 },
    labels: { team: 'bench', number: String(index) },
    runtime: 'runsc',
    hostname: id.slice(4),
    createdAt: at,
    startedAt: at,
    end: { reason: 'exited', at, exitCode: 0 },
    timings: ['image', 'files', 'disk', 'rootfs', 'network', 'cgroup', 'bundle', 'container', 'start'].map(step => ({ step, durationMs: 12.34 })),
    leaks: [],
    wasCreated: true,
  }
  const dir = join(stateDir, 'sandboxes', id)
  await mkdir(dir, { recursive: true, mode: 0o700 })
  await writeFile(join(dir, 'sandbox.json'), JSON.stringify(record), { mode: 0o600 })
}
