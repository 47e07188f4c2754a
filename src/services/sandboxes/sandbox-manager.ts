import { readdir, rm } from 'node:fs/promises'
import { Semaphore } from 'async-mutex'
import { BerthError } from '../../errors.ts'
import { randomId } from '../../lib/id.ts'
import type { EventType } from '../../schemas/event.ts'
import type { NetworkRequest } from '../../schemas/network.ts'
import type { Sandbox, SandboxCreate, SandboxPage, SandboxStatus, SandboxUpdate } from '../../schemas/sandbox.ts'
import type { BudgetedLog } from '../logs/log-budget.ts'
import type { LogSource } from '../logs/log-source.ts'
import { closedNetwork, type NetworkManager } from '../network/network-manager.ts'
import type { LifecycleParts } from './lifecycle-parts.ts'
import { SandboxLifecycle } from './sandbox-lifecycle.ts'
import { readRecord, toWire, type SandboxRecord } from './sandbox-record.ts'
import { liveStatuses } from './sandbox-status.ts'
import type { SandboxStep } from './sandbox-steps.ts'
import { waitForStatus, type WaitTarget } from './sandbox-wait.ts'
import { StepLadder } from './step-ladder.ts'

export interface SandboxManagerOptions extends Omit<LifecycleParts, 'onStatus' | 'ladder'> {
  steps: readonly SandboxStep[]
  network: Pick<NetworkManager, 'specOf' | 'change'>
  defaultRuntime: string
  /** How many sandboxes are set up at once. */
  maxConcurrentStarts: number
  /** Throws while this host takes no sandbox but those of tasks. */
  assertTaking?: () => void
  events: { append: (event: { type: EventType, sandboxId: string, data: Record<string, unknown> }) => unknown }
  /** Told when a sandbox has ended, so that followers of its log can end too. */
  onEnded: (record: SandboxRecord) => void
  /** Told when nothing of a sandbox is left but its record. */
  onRemoved: (record: SandboxRecord) => void
  /** Told how long each step of a finished set-up took. */
  onSetUp: (timings: Sandbox['timings']) => void
}

export interface SandboxFilter {
  status?: readonly string[]
  labels?: Readonly<Record<string, string>>
  image?: string
  runtime?: string
  includeDeleted?: boolean
  limit?: number
  cursor?: string
}

export const resourceDefaults = Object.freeze({ cpuMillis: 2000, memoryBytes: 2 * 1024 ** 3, pids: 512 })
const defaultPageSize = 100
/** A day of deleted sandboxes has more records than a process may have files open. */
const maxOpenRecords = 64

/** Every sandbox of this host: makes them, finds them, and hands each operation to the one it is for. */
export class SandboxManager {
  readonly #options: SandboxManagerOptions
  readonly #sandboxes = new Map<string, SandboxLifecycle>()
  readonly #byIdempotencyKey = new Map<string, Promise<SandboxLifecycle>>()
  /** Directories without a record that makes sense: creates that never began, and what a failing disk has left. */
  readonly #unreadable = new Set<string>()
  readonly #startGate: Semaphore
  readonly #ladder: StepLadder
  #isClosed = false

  constructor (options: SandboxManagerOptions) {
    this.#options = options
    this.#startGate = new Semaphore(options.maxConcurrentStarts)
    const { steps, logger } = options
    this.#ladder = new StepLadder({ steps, logger, gate: work => this.#startGate.runExclusive(work), onLeak: (record, step) => this.#append('sandbox.leak', record.id, { step }) })
  }

  /** Reads every record from disk. */
  async open (): Promise<void> {
    const { places } = this.#options
    const ids = await readdir(places.sandboxesDir)
    const records: SandboxRecord[] = []
    while (ids.length > 0) {
      await Promise.all(ids.splice(0, maxOpenRecords).map(async id => {
        const record = await readRecord(places.sandbox(id).recordPath)
        if (record?.id === id) records.push(record)
        else this.#unreadable.add(id)
      }))
    }
    // In the order of creation, as those to come will be: a list has next to nothing to sort.
    for (const record of records.sort(compareKeys)) this.#add(record)
  }

  /** @throws BerthError as the request, the image or the host make necessary; nothing is left then. */
  async create (input: SandboxCreate, options: { idempotencyKey?: string } = {}): Promise<Sandbox> {
    this.#assertOpen()
    const { idempotencyKey } = options
    if (idempotencyKey === undefined) return toWire((await this.#createAsked(input)).record)
    // The same key while the first create is under way, or after a restart lost its answer, is the same sandbox.
    let created = this.#byIdempotencyKey.get(idempotencyKey)
    if (!created) {
      created = this.#createAsked(input, { idempotencyKey })
      this.#byIdempotencyKey.set(idempotencyKey, created)
      created.catch(() => this.#byIdempotencyKey.delete(idempotencyKey))
    }
    return toWire((await created).record)
  }

  /** The sandbox of one delivery of a task. Whoever makes it has looked with `ofTask` that there is none yet. */
  async createForTask (input: SandboxCreate, task: NonNullable<SandboxRecord['task']>): Promise<SandboxLifecycle> {
    this.#assertOpen()
    return await this.#create(input, { task })
  }

  /** The sandbox that was made for a delivery of a task, deleted or not; undefined where none ever came to run, or its record is gone. */
  ofTask (taskId: string, fence: number): SandboxLifecycle | undefined {
    return this.all().find(({ record: { task, wasCreated } }) => task?.id === taskId && task.fence === fence && wasCreated)
  }

  async #createAsked (input: SandboxCreate, origin: Pick<SandboxRecord, 'idempotencyKey'> = {}): Promise<SandboxLifecycle> {
    this.#options.assertTaking?.()
    return await this.#create(input, origin)
  }

  async #create (input: SandboxCreate, origin: Pick<SandboxRecord, 'idempotencyKey' | 'task'> = {}): Promise<SandboxLifecycle> {
    const record = { ...newRecord(input, this.#options.defaultRuntime), ...origin }
    record.network = this.#options.network.specOf(input.network)
    if (!this.#options.runtimes.has(record.runtime)) {
      throw new BerthError('invalid_argument', 'runtime_unknown', `this host has no OCI runtime ${JSON.stringify(record.runtime)}; it has ${[...this.#options.runtimes.keys()].join(', ')}`)
    }
    const sandbox = this.#add(record)
    try {
      await sandbox.create({ start: input.start ?? true, request: { pull: input.imagePull, credentials: input.registryCredentials } })
    } catch (error) {
      // What the request itself got wrong leaves no trace, and a task says for itself what went wrong; the rest stays readable.
      const isKnownElsewhere = origin.task !== undefined || (error instanceof BerthError && error.kind === 'invalid_argument')
      if (isKnownElsewhere && record.leaks.length === 0) await this.forget(record.id)
      throw error
    }
    this.#options.onSetUp(record.timings)
    return sandbox
  }

  /** Newest first. */
  list (filter: SandboxFilter = {}): SandboxPage {
    const limit = filter.limit ?? defaultPageSize
    const matches = this.all()
      .filter(({ record }) => matchesFilter(record, filter))
      .reverse()
      .sort((a, b) => compareKeys(b.record, a.record))
    const after = filter.cursor === undefined ? undefined : decodeCursor(filter.cursor)
    const rest = after === undefined ? matches : matches.filter(({ record }) => compareKeys(record, after) < 0)
    const page = rest.slice(0, limit)
    const last = page.at(-1)
    return {
      items: page.map(({ record }) => toWire(record)),
      ...(last && rest.length > page.length ? { nextCursor: encodeCursor(last.record) } : {}),
    }
  }

  get (id: string): Sandbox {
    return toWire(this.lifecycle(id).record)
  }

  /** @throws BerthError not_found `sandbox_not_found`. */
  lifecycle (id: string): SandboxLifecycle {
    const sandbox = this.#sandboxes.get(id)
    if (!sandbox) throw new BerthError('not_found', 'sandbox_not_found', 'there is no sandbox with this id; GET /v1/sandboxes lists those there are')
    return sandbox
  }

  /** One that has not been deleted, for whatever acts on it. */
  #present (id: string): SandboxLifecycle {
    const sandbox = this.lifecycle(id)
    if (sandbox.record.deletedAt) throw new BerthError('not_found', 'sandbox_deleted', 'the sandbox has been deleted; only its record can still be read')
    return sandbox
  }

  async update (id: string, update: SandboxUpdate): Promise<Sandbox> {
    const sandbox = this.#present(id)
    await sandbox.update(update)
    this.#append('sandbox.updated', id, { ...update })
    return toWire(sandbox.record)
  }

  /** @throws BerthError for rules that make no sense, or that cannot be put in force: then the old ones stay. */
  async setNetwork (id: string, request: NetworkRequest): Promise<Sandbox> {
    const sandbox = this.#present(id)
    await sandbox.setNetwork(this.#options.network.specOf(request))
    const { egress, publish } = sandbox.record.network ?? closedNetwork
    this.#append('sandbox.network', id, { egress, publish })
    return toWire(sandbox.record)
  }

  /** Where a program of the sandbox that listens is reached. */
  previewTarget (id: string): { host: string } {
    const { record, status } = this.#present(id)
    if (!record.heldNetwork || !liveStatuses.includes(status)) {
      throw new BerthError('conflict', 'invalid_state', `the sandbox is ${status}; a port is reached while it runs: start it first`, { details: { status } })
    }
    return { host: record.heldNetwork.ipv4 }
  }

  /** Something comes in from outside: the sandbox is not idle until what is answered is called. */
  beginActivity (id: string): () => void {
    return this.#sandboxes.get(id)?.clock.beginActivity() ?? (() => {})
  }

  async start (id: string): Promise<Sandbox> {
    this.#assertOpen()
    const sandbox = this.#present(id)
    await sandbox.start()
    return toWire(sandbox.record)
  }

  async stop (id: string, options: { force?: boolean, graceMs?: number } = {}): Promise<Sandbox> {
    const sandbox = this.#present(id)
    await sandbox.stop({ reason: 'requested', ...options })
    return toWire(sandbox.record)
  }

  async pause (id: string): Promise<Sandbox> {
    const sandbox = this.#present(id)
    await sandbox.pause()
    return toWire(sandbox.record)
  }

  async resume (id: string): Promise<Sandbox> {
    const sandbox = this.#present(id)
    await sandbox.resume()
    return toWire(sandbox.record)
  }

  /** @throws BerthError timed_out when it has not come so far in time. */
  async wait (id: string, options: { timeoutMs?: number, signal?: AbortSignal, until?: WaitTarget } = {}): Promise<Sandbox> {
    const sandbox = this.lifecycle(id)
    await waitForStatus(sandbox, options)
    return toWire(sandbox.record)
  }

  /** A sandbox that is deleted already is fine. */
  async remove (id: string, options: { force?: boolean } = {}): Promise<void> {
    const sandbox = this.lifecycle(id)
    const wasDeleted = sandbox.record.deletedAt !== undefined
    await sandbox.remove({ force: options.force ?? false })
    if (wasDeleted || !sandbox.record.deletedAt) return
    this.#options.onRemoved(sandbox.record)
    this.#append('sandbox.deleted', id, {})
  }

  /** Deletes a sandbox that was made for a task, which has all that is to be known of it. One that leaks stays until it no longer does. */
  async removeOfTask (id: string): Promise<void> {
    const { record } = this.lifecycle(id)
    await this.remove(id, { force: true })
    if (record.deletedAt) await this.forget(id)
  }

  /** Ends, as failed with `image_lost`, every sandbox whose rootfs lies on a directory of which this is so. Answers their ids. */
  async endThoseOn (isLost: (lowerDir: string) => boolean): Promise<string[]> {
    const lying = this.all().filter(({ record, hasEnded }) => record.holdsRun && !hasEnded && record.lowerDirs?.some(isLost))
    await Promise.all(lying.map(async sandbox => {
      await sandbox.stop({ reason: 'image_lost', force: true }).catch(error => this.#options.logger.error({ sandboxId: sandbox.record.id, err: error }, 'a sandbox on a lost image could not be stopped'))
    }))
    return lying.map(({ record }) => record.id)
  }

  /** Where the log of a sandbox lies, and whether it is complete. */
  sandboxLog (id: string): LogSource {
    const sandbox = this.#present(id)
    const { record } = sandbox
    return {
      dir: this.#options.places.logDir(record),
      ...(record.task ? { from: record.task.logCursor } : {}),
      isEnded: () => sandbox.hasEnded || record.deletedAt !== undefined,
      end: () => record.end && { reason: record.end.reason, ...(record.end.exitCode === undefined ? {} : { exitCode: record.end.exitCode }) },
    }
  }

  /** Of sandboxes that were made for no task, for the budget of all logs. */
  logs (): BudgetedLog[] {
    return this.all().filter(({ record }) => !record.task && !record.deletedAt).map(sandbox => ({
      dir: this.#options.places.logDir(sandbox.record),
      isEnded: () => sandbox.hasEnded,
      endedAt: sandbox.record.end?.at,
    }))
  }

  /** Removes the directories of sandboxes that have no record. What they held on the host must have been reclaimed. */
  async removeUnreadable (): Promise<void> {
    for (const id of this.#unreadable) {
      this.#options.logger.warn({ sandboxId: id }, 'a sandbox directory without a readable record is removed')
      try {
        await this.#options.places.removeSandboxFiles(id)
        await rm(this.#options.places.sandbox(id).dir, { recursive: true, force: true })
      } catch (error) {
        this.#options.logger.error({ sandboxId: id, err: error }, 'a sandbox directory without a readable record could not be removed')
      }
    }
  }

  all (): SandboxLifecycle[] {
    return [...this.#sandboxes.values()]
  }

  /** Removes the last trace of a deleted sandbox. */
  async forget (id: string): Promise<void> {
    const { idempotencyKey } = this.#sandboxes.get(id)?.record ?? {}
    if (idempotencyKey !== undefined) this.#byIdempotencyKey.delete(idempotencyKey)
    this.#sandboxes.delete(id)
    await rm(this.#options.places.sandbox(id).dir, { recursive: true, force: true })
  }

  /** Number of sandboxes by status, without deleted ones. */
  countByStatus (): Partial<Record<SandboxStatus, number>> {
    const counts: Partial<Record<SandboxStatus, number>> = {}
    for (const { record } of this.all()) {
      if (!record.deletedAt) counts[record.status] = (counts[record.status] ?? 0) + 1
    }
    return counts
  }

  /** Refuses further starts, and lets go of every sandbox without touching it. */
  close (): void {
    this.#isClosed = true
    for (const sandbox of this.all()) sandbox.close()
  }

  #add (record: SandboxRecord): SandboxLifecycle {
    const { onEnded, ...parts } = this.#options
    const sandbox = new SandboxLifecycle(record, {
      ...parts,
      ladder: this.#ladder,
      onStatus: (changed, { from, to }) => {
        const { end } = changed
        this.#append('sandbox.status', changed.id, { from, to, ...(end && (to === 'stopped' || to === 'failed') ? { reason: end.reason, exitCode: end.exitCode } : {}) })
        if (to === 'stopped' || to === 'failed') onEnded(changed)
      },
    })
    this.#sandboxes.set(record.id, sandbox)
    // One that is still to be rolled back or removed is no answer to a create that is asked for again.
    const isAnswer = record.wasCreated && !record.isDeleting && !record.deletedAt
    if (record.idempotencyKey !== undefined && isAnswer) this.#byIdempotencyKey.set(record.idempotencyKey, Promise.resolve(sandbox))
    return sandbox
  }

  #append (type: EventType, sandboxId: string, data: Record<string, unknown>): void {
    this.#options.events.append({ type, sandboxId, data })
  }

  #assertOpen (): void {
    if (this.#isClosed) throw new BerthError('unavailable', 'host_stopping', 'the daemon is ending; try again when it is back')
  }
}

function newRecord (input: SandboxCreate, defaultRuntime: string): SandboxRecord {
  const id = randomId('sbx')
  return {
    version: 1,
    id,
    status: 'pending',
    image: { reference: input.image },
    request: {
      env: input.env ?? {},
      ...(input.entrypoint ? { entrypoint: input.entrypoint } : {}),
      ...(input.workingDir ? { workingDir: input.workingDir } : {}),
      ...(input.user ? { user: input.user } : {}),
    },
    resources: { ...resourceDefaults, ...input.resources },
    labels: input.labels ?? {},
    runtime: input.runtime ?? defaultRuntime,
    hostname: input.hostname ?? id.slice(id.indexOf('_') + 1),
    ...(input.timeoutMs === undefined ? {} : { timeoutMs: input.timeoutMs }),
    ...(input.idleTimeoutMs === undefined ? {} : { idleTimeoutMs: input.idleTimeoutMs }),
    createdAt: new Date().toISOString(),
    timings: [],
    leaks: [],
  }
}

function matchesFilter (record: SandboxRecord, filter: SandboxFilter): boolean {
  if (record.deletedAt && !filter.includeDeleted) return false
  if (filter.status && filter.status.length > 0 && !filter.status.includes(record.status)) return false
  if (filter.image !== undefined && record.image.reference !== filter.image) return false
  if (filter.runtime !== undefined && record.runtime !== filter.runtime) return false
  return Object.entries(filter.labels ?? {}).every(([key, value]) => record.labels[key] === value)
}

/** Creation time, then id: stable while sandboxes come and go. */
type PageKey = Pick<SandboxRecord, 'createdAt' | 'id'>

function compareKeys (a: PageKey, b: PageKey): number {
  if (a.createdAt !== b.createdAt) return a.createdAt < b.createdAt ? -1 : 1
  if (a.id !== b.id) return a.id < b.id ? -1 : 1
  return 0
}

function encodeCursor ({ createdAt, id }: PageKey): string {
  return Buffer.from(`${createdAt} ${id}`).toString('base64url')
}

function decodeCursor (cursor: string): PageKey {
  const [, createdAt, id] = /^(\S{24}) (sbx_[a-z0-9]{20})$/.exec(Buffer.from(cursor, 'base64url').toString('latin1')) ?? []
  if (!createdAt || !id) throw new BerthError('invalid_argument', 'invalid_cursor', 'cursor is not one that a list answered; leave it out to begin anew')
  return { createdAt, id }
}
