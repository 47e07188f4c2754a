import { createHash, randomUUID } from 'node:crypto'
import { BerthError } from '../../errors.ts'
import type { FleetSandboxCreate } from '../../schemas/fleet.ts'
import { Resources } from '../../schemas/sandbox.ts'
import type { Room } from '../../services/tasks/task-queue.ts'
import { hostIdempotencyKey } from '../proxy/proxy-headers.ts'
import { checkPool } from '../proxy/proxy-permissions.ts'
import { askWorker, type WorkerAnswer } from '../proxy/worker-calls.ts'
import type { WorkerLinks } from '../proxy/worker-links.ts'
import { badWorkerAnswer, WorkerUnreachableError, workerRefuses } from '../proxy/worker-problems.ts'
import type { FleetPrincipal, Workers } from '../worker-record.ts'
import { readHostSandbox } from './host-sandbox.ts'
import { placeSandbox, type Placement } from './placement.ts'
import type { PlacementKeys, PlacementRecord } from './placement-keys.ts'
import type { SandboxIndex } from './sandbox-index.ts'
import { activeSpan } from '../../services/tracing/span.ts'

export interface SandboxPlacerOptions {
  workers: Pick<Workers, 'list' | 'reserve'>
  links: WorkerLinks
  index: SandboxIndex
  keys: PlacementKeys
}

export interface PlacementRequest {
  principal: FleetPrincipal
  create: FleetSandboxCreate
  /** The client's Idempotency-Key. */
  key?: string | undefined
  requestId: string
}

/** A host's answer, in its own words. */
export interface PlacedAnswer {
  workerId: string
  status: number
  /** JSON. */
  body: string
  /** It was given to an earlier request with the same key. */
  isReplayed: boolean
}

/** What a host's answer means for the request. */
type Verdict = 'made' | 'elsewhere' | 'refused' | 'unsure'

const defaultPool = 'default'
const maxHosts = 3
/** An image may have to be fetched, for which a host takes ten minutes at most. */
const createTimeoutMs = 15 * 60_000
const removeTimeoutMs = 30_000

/** Makes sandboxes somewhere in a pool. */
export class SandboxPlacer {
  readonly #options: SandboxPlacerOptions

  constructor (options: SandboxPlacerOptions) {
    this.#options = options
  }

  /**
   * Where it goes is written down before it is asked for: a repeat with the same key goes to the same host, until it is certain that
   * nothing was made there.
   *
   * @throws BerthError unavailable `no_room`, `placement_unsure`, `worker_unreachable`; conflict `idempotency_key_reused`, `idempotency_in_progress`.
   */
  async create (request: PlacementRequest): Promise<PlacedAnswer> {
    const { principal, create, key = randomUUID() } = request
    const { pool = defaultPool } = create
    checkPool(principal, pool)
    const { keys } = this.#options
    const hostKey = hostIdempotencyKey(principal.id, key)
    const release = request.key === undefined ? undefined : await keys.hold(hostKey)
    try {
      const bodyHash = hashOf(create)
      const known = request.key === undefined ? undefined : await keys.read(hostKey)
      if (known && known.bodyHash !== bodyHash) {
        throw new BerthError('conflict', 'idempotency_key_reused', 'this Idempotency-Key was used for a different request; take a new key for each request')
      }
      if (known?.answer !== undefined) return { workerId: known.workerId, status: 201, body: known.answer, isReplayed: true }
      const attempt = new PlacementAttempt(this.#options, { ...request, key }, { pool, hostKey, bodyHash, isClientsKey: request.key !== undefined })
      return await attempt.run(known)
    } finally {
      await release?.()
    }
  }
}

interface AttemptFacts {
  pool: string
  hostKey: string
  bodyHash: string
  isClientsKey: boolean
}

/** One request for a sandbox, on its way from host to host. */
class PlacementAttempt {
  readonly #options: SandboxPlacerOptions
  readonly #request: PlacementRequest & { key: string }
  readonly #facts: AttemptFacts
  readonly #refused = new Set<string>()

  constructor (options: SandboxPlacerOptions, request: PlacementRequest & { key: string }, facts: AttemptFacts) {
    this.#options = options
    this.#request = request
    this.#facts = facts
  }

  async run (known: PlacementRecord | undefined): Promise<PlacedAnswer> {
    // What became of it there is not known, so only that host may be asked.
    if (known) {
      const answer = await this.#askIfKnown(known.workerId)
      if (answer) return await this.#conclude(known.workerId, answer)
    }
    let last: unknown
    for (let hosts = 0; hosts < maxHosts; hosts++) {
      const workerId = await this.#choose(last)
      const { keys } = this.#options
      await keys.write(this.#facts.hostKey, { workerId, bodyHash: this.#facts.bodyHash })
      try {
        const answer = await this.#ask(workerId)
        if (verdictOf(answer) !== 'elsewhere') return await this.#conclude(workerId, answer)
        last = refusalOf(workerId, answer)
      } catch (error) {
        if (!isCertain(error)) throw error
        last = error
      }
      this.#refused.add(workerId)
    }
    await this.#options.keys.forget(this.#facts.hostKey)
    throw last
  }

  /** @throws BerthError unavailable `no_room`, or why the last one asked would not. */
  async #choose (last: unknown): Promise<string> {
    const { create: { hostLabels, resources } } = this.#request
    const { pool, hostKey } = this.#facts
    const room = roomOf(resources)
    const placement = placeSandbox(await this.#options.workers.list({ pool }), { room, hostLabels, refused: this.#refused })
    if ('worker' in placement) {
      await this.#options.workers.reserve(placement.worker.id, room)
      return placement.worker.id
    }
    if (this.#refused.size > 0) await this.#options.keys.forget(hostKey)
    throw last ?? noRoom(placement, pool, room)
  }

  /** Undefined where the fleet has forgotten the worker, and the sandbox with it. */
  async #askIfKnown (workerId: string): Promise<WorkerAnswer | undefined> {
    try {
      return await this.#ask(workerId)
    } catch (error) {
      if (error instanceof BerthError && error.kind === 'not_found') return undefined
      throw error
    }
  }

  async #ask (workerId: string): Promise<WorkerAnswer> {
    const { create: { pool: _, hostLabels: __, ...json }, requestId, key } = this.#request
    const { links } = this.#options
    for (let isSecond = false; ; isSecond = true) {
      const link = await links.open(workerId)
      try {
        const traceparent = activeSpan()?.traceparent
        const headers = { 'idempotency-key': this.#facts.hostKey, 'x-request-id': requestId, ...(traceparent === undefined ? {} : { traceparent }) }
        const answer = await askWorker(link, { method: 'POST', target: '/v1/sandboxes', json, headers, timeoutMs: createTimeoutMs })
        if (answer.status !== 401) return answer
        links.doubt(workerId)
        // It may have joined again a moment ago.
        if (isSecond) throw workerRefuses(workerId)
      } catch (error) {
        links.doubt(workerId)
        throw error instanceof WorkerUnreachableError && error.wasSent ? unsure(workerId, key, error) : error
      }
    }
  }

  /** What the client is answered, and what is remembered of it. */
  async #conclude (workerId: string, answer: WorkerAnswer): Promise<PlacedAnswer> {
    const { keys } = this.#options
    const { hostKey, bodyHash } = this.#facts
    const verdict = verdictOf(answer)
    if (verdict === 'made') {
      await this.#enter(workerId, answer)
      await keys.write(hostKey, { workerId, bodyHash, answer: answer.text })
    } else if (verdict === 'refused') await keys.forget(hostKey)
    return { workerId, status: answer.status, body: answer.text, isReplayed: answer.headers['idempotency-replayed'] === 'true' }
  }

  async #enter (workerId: string, { text }: WorkerAnswer): Promise<void> {
    const { index, links } = this.#options
    const sandbox = readHostSandbox(text)
    if (!sandbox) throw badWorkerAnswer(workerId, 'it was asked for a sandbox and answered something else')
    const { id, createdAt, labels } = sandbox
    // Whoever asks for that one is not to be sent here.
    const known = await index.find(id)
    if (known && known.workerId !== workerId) throw badWorkerAnswer(workerId, 'it was asked for a sandbox and named one of another worker')
    try {
      await index.put({ id, workerId, pool: this.#facts.pool, createdAt, labels })
    } catch (error) {
      // By its own key a client gets it when it asks again; without one nobody would ever find it.
      if (!this.#facts.isClientsKey) await askWorker(await links.open(workerId), { method: 'DELETE', target: `/v1/sandboxes/${id}?force=true`, timeoutMs: removeTimeoutMs }).catch(() => {})
      throw error
    }
  }
}

function verdictOf ({ status, text }: WorkerAnswer): Verdict {
  if (status >= 200 && status < 300) return 'made'
  const code = codeOf(text)
  // Full, or about to leave: nothing was made.
  if (status === 429 || code === 'host_draining') return 'elsewhere'
  return status >= 500 || code === 'idempotency_in_progress' ? 'unsure' : 'refused'
}

/** Whether nothing can have been made by it. */
function isCertain (error: unknown): boolean {
  if (error instanceof WorkerUnreachableError) return !error.wasSent
  return error instanceof BerthError && ['worker_unreachable', 'worker_not_found'].includes(error.code)
}

function refusalOf (workerId: string, { text }: WorkerAnswer): BerthError {
  const { message = 'no reason given' } = parse(text)
  return new BerthError('unavailable', 'no_room', `no host takes the sandbox at the moment; worker ${workerId} says: ${String(message)}`, { details: { workerId, code: codeOf(text) } })
}

function unsure (workerId: string, key: string, cause: Error): BerthError {
  return new BerthError('unavailable', 'placement_unsure',
    `worker ${workerId} was asked for the sandbox and has not answered: it may have been made. Repeat the request with the same Idempotency-Key to get it`,
    { cause, details: { workerId, idempotencyKey: key } })
}

function noRoom (placement: Exclude<Placement, { worker: unknown }>, pool: string, room: Room): BerthError {
  const words = {
    workers: `pool ${pool} has no worker that takes sandboxes at the moment; see GET /v1/workers`,
    labels: `no worker of pool ${pool} has all of hostLabels; see GET /v1/workers`,
    room: `no worker of pool ${pool} has room for ${room.cpuMillis} thousandths of a core and ${room.memoryBytes} bytes of memory at the moment; ask for less, or try again`,
  }
  const { missing } = placement
  return new BerthError('unavailable', 'no_room', words[missing], { details: { pool, missing, ...(missing === 'room' ? { largest: placement.largest } : {}) } })
}

/** As the host's own defaults would have it. */
function roomOf (resources: FleetSandboxCreate['resources']): Room {
  const { cpuMillis, memoryBytes } = Resources.properties
  return { cpuMillis: resources?.cpuMillis ?? cpuMillis.default as number, memoryBytes: resources?.memoryBytes ?? memoryBytes.default as number }
}

/** Of credentials not even a hash is kept. */
function hashOf ({ registryCredentials: _, ...create }: FleetSandboxCreate): string {
  return createHash('sha256').update(JSON.stringify(create)).digest('hex')
}

function codeOf (text: string): string {
  return String(parse(text).code)
}

function parse (text: string): { code?: unknown, message?: unknown } {
  try {
    return JSON.parse(text) as { code?: unknown } ?? {}
  } catch {
    return {}
  }
}
