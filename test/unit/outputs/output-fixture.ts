import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, readlink, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import pino from 'pino'
import type { OutputSpec } from '../../../src/schemas/output.ts'
import { LogReader } from '../../../src/services/logs/log-reader.ts'
import type { OpenSink } from '../../../src/services/outputs/open-sink.ts'
import { OutputManager } from '../../../src/services/outputs/output-manager.ts'
import type { ShipperTimes } from '../../../src/services/outputs/output-shipper.ts'
import type { OutputEntry, OutputSink, SinkState, StatusEntry } from '../../../src/services/outputs/output-sink.ts'
import type { OutputTask } from '../../../src/services/outputs/output-task.ts'

const fastTimes: Partial<ShipperTimes> = { maxDelayMs: 5, deliveryMs: 5000, settleMs: 500, backoff: { firstMs: 2, mostMs: 10 }, checkpointMs: 1, quietMs: 20 }

/** A destination that remembers what it took, and can be told how to behave. */
export class FakeDestination {
  readonly batches: { first: number, last: number }[] = []
  readonly taken: OutputEntry[] = []
  readonly statuses: StatusEntry[] = []
  readonly openedWith: SinkState[] = []
  open = 0
  tries = 0
  writing = 0
  mostWriting = 0
  mostHeldBytes = 0
  limits: OutputSink['limits']
  /** Called before a batch is taken. */
  before: (batch: readonly OutputEntry[]) => Promise<void> | void = () => undefined
  /** Called between taking a batch and confirming it. */
  after: (batch: readonly OutputEntry[]) => Promise<void> | void = () => undefined
  #heldBytes = 0

  constructor (limits: Partial<OutputSink['limits']> = {}) {
    this.limits = { batchBytes: 1000, batchEntries: 10, batchesInFlight: 1, entryBytes: 500, ...limits }
  }

  sink (state: SinkState): OutputSink {
    this.openedWith.push(state)
    this.open++
    return {
      limits: this.limits,
      write: async batch => {
        const bytes = batch.reduce((sum, { data }) => sum + data.length, 0)
        assert.ok(batch.length > 0 && batch.length <= this.limits.batchEntries && bytes <= this.limits.batchBytes)
        this.tries++
        this.writing++
        this.#heldBytes += bytes
        this.mostWriting = Math.max(this.mostWriting, this.writing)
        this.mostHeldBytes = Math.max(this.mostHeldBytes, this.#heldBytes)
        try {
          await this.before(batch)
          this.batches.push({ first: batch[0]!.seq, last: batch.at(-1)!.seq })
          this.taken.push(...batch)
          await this.after(batch)
          return { seq: batch.at(-1)!.seq }
        } finally {
          this.writing--
          this.#heldBytes -= bytes
        }
      },
      writeStatus: async entries => {
        await this.before([])
        this.statuses.push(...entries)
      },
      close: async () => { this.open-- },
    }
  }

  /** What it took, each number once, in order. Fails where a number is missing, out of order, or stands for two things. */
  unique (): OutputEntry[] {
    const seen: OutputEntry[] = []
    for (const entry of this.taken) {
      const known = seen[entry.seq]
      if (known) assert.deepEqual(entry, known, 'a number stands for two things')
      else assert.equal(entry.seq, seen.push(entry) - 1, 'an entry is missing or out of order')
    }
    return seen
  }

  texts (): string[] {
    return this.unique().map(({ data }) => data.toString())
  }
}

export class FakeTask implements OutputTask {
  readonly id: string
  readonly outputs: OutputSpec[]
  readonly labels = {}
  history: StatusEntry[] = []

  constructor (id: string, outputs: OutputSpec[]) {
    this.id = id
    this.outputs = outputs
  }

  readonly isEnded = (): boolean => ['complete', 'failed', 'cancelled'].includes(this.history.at(-1)?.status ?? '')
  readonly statuses = (): readonly StatusEntry[] => this.history

  become (status: string, attempt = 1): this {
    this.history = [...this.history, { seq: this.history.length, at: new Date(0).toISOString(), status, attempt }]
    return this
  }
}

export const webhook = (name: string): OutputSpec => ({ type: 'webhook', url: `http://${name}.test/` })

/** Directories, a manager, and destinations by the host names in their URLs; nothing may be open at the end. */
export async function build (t: TestContext, options: { times?: Partial<ShipperTimes>, openSink?: OpenSink } = {}) {
  const root = await mkdtemp(join(tmpdir(), 'berth-outputs-'))
  const destinations = new Map<string, FakeDestination>()
  const done: string[] = []
  const managers: OutputManager[] = []
  const logs = new LogReader()
  const path = (...parts: string[]): string => join(root, ...parts)
  const openSink: OpenSink = options.openSink ?? (async ({ spec, state }) => destinations.get(new URL(spec.url!).hostname.split('.')[0]!)!.sink(state))
  const newManager = (): OutputManager => {
    const manager = new OutputManager({
      logs,
      openSink,
      logDir: taskId => path(taskId),
      outputsDir: taskId => path(taskId, 'outputs'),
      logger: pino({ level: 'silent' }),
      onDone: taskId => { done.push(taskId) },
      times: { ...fastTimes, ...options.times },
    })
    managers.push(manager)
    return manager
  }
  t.after(async () => {
    await Promise.all(managers.map(manager => manager.close()))
    for (const [name, { open }] of destinations) assert.equal(open, 0, `sinks of ${name} are left open`)
    assert.equal(logs.watchedCount, 0, 'followers are left')
    const targets = await Promise.all((await readdir('/proc/self/fd')).map(fd => readlink(`/proc/self/fd/${fd}`).catch(() => '')))
    assert.deepEqual(targets.filter(target => target.startsWith(root)), [], 'open files are left')
    await rm(root, { recursive: true, force: true })
  })
  return {
    path,
    logs,
    done,
    newManager,
    manager: newManager(),
    destination: (name: string, limits?: Partial<OutputSink['limits']>) => {
      const destination = new FakeDestination(limits)
      destinations.set(name, destination)
      return destination
    },
    task: async (id: string, outputs: OutputSpec[]) => {
      await mkdir(path(id))
      return new FakeTask(id, outputs)
    },
  }
}

export function line (text: string | Buffer, stream = 'stdout', tag = 'F'): Buffer {
  return Buffer.concat([Buffer.from(`2026-11-22T13:30:19Z ${stream} ${tag} `), Buffer.from(text), Buffer.from('\n')])
}

export async function until (what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (let round = 0; round < 2000; round++) {
    if (await isSo()) return
    await sleep(5)
  }
  assert.fail(`${what} did not come`)
}
