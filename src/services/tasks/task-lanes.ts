import type { TaskSpec } from './task-record.ts'
import type { LabelLimit, Room } from './task-queue.ts'

export interface LaneOptions {
  fairLabel: string
  labelLimits: readonly LabelLimit[]
  reserveAfterMs: number
  /** The oldest task of a lane that is due. */
  findHead: (lane: string) => LaneHead | undefined
}

export interface LaneHead {
  seq: number
  /** Since when it is due, in milliseconds since the epoch. */
  dueAt: number
}

export interface Lane {
  readonly key: string
  readonly pool: string
  readonly priority: number
  /** Its value of the label that takes turns; null without that label. */
  readonly fair: string | null
  readonly requests: Readonly<Room>
  readonly limits: ReadonlyArray<{ bucket: string, max: number }>
  due: number
  /** Scheduled or running. */
  claimed: number
  /** Known once it was looked up. */
  head: LaneHead | undefined
}

interface Search {
  pools: ReadonlySet<string>
  room: Room
  capacity: Room
  now: number
}

/** What a value's turn comes to: a task for it, or room to be kept for one. */
type Turn = { lane: Lane, head: LaneHead, isReserved: boolean }

/** Of so many values it is remembered when they had their turn. */
const maxRemembered = 10_000

/**
 * Whose turn it is, in memory. A lane holds tasks that are alike in all that decides about their turn (pool, priority, labels that take
 * turns or are limited, what they request), so a lane is looked at by its oldest task alone, however long it is.
 */
export class TaskLanes {
  readonly #options: LaneOptions
  readonly #limitedLabels: readonly string[]
  readonly #lanes = new Map<string, Lane>()
  /** Lanes with due tasks: by priority, then by value of the fair label. */
  readonly #due = new Map<number, Map<string | null, Set<Lane>>>()
  #priorities: number[] = []
  readonly #claimedOfValue = new Map<string | null, number>()
  readonly #claimedOfBucket = new Map<string, number>()
  /** When a value last had its turn, as a count of turns; oldest first. */
  readonly #turns = new Map<string | null, number>()
  #turn = 0

  constructor (options: LaneOptions) {
    this.#options = options
    this.#limitedLabels = [...new Set(options.labelLimits.map(({ label }) => label))].sort()
  }

  /** What makes up a lane; keys of queues with another scheme mean something else. */
  get scheme (): string {
    return JSON.stringify([this.#options.fairLabel, ...this.#limitedLabels])
  }

  keyOf ({ pool, priority, labels, requests }: Pick<TaskSpec, 'pool' | 'priority' | 'labels' | 'requests'>): string {
    const values = [this.#options.fairLabel, ...this.#limitedLabels].map(label => Object.hasOwn(labels, label) ? labels[label] : null)
    return JSON.stringify([pool, priority, requests.cpuMillis, requests.memoryBytes, ...values])
  }

  /** Forgets the tasks, not the turns. */
  clear (): void {
    this.#lanes.clear()
    this.#due.clear()
    this.#priorities = []
    this.#claimedOfValue.clear()
    this.#claimedOfBucket.clear()
  }

  /** Counts due tasks in. `head`: the only one of them; without it the oldest is looked up. */
  addDue (key: string, count: number, head?: LaneHead): void {
    const lane = this.#lane(key)
    if (lane.due === 0) {
      this.#list(lane)
      lane.head = head
    } else if (head === undefined || (lane.head !== undefined && head.seq < lane.head.seq)) {
      lane.head = head
    }
    lane.due += count
  }

  removeDue (key: string, seq: number): void {
    const lane = this.#lane(key)
    lane.due--
    if (lane.head?.seq === seq) lane.head = undefined
    if (lane.due === 0) this.#unlist(lane)
    this.#forget(lane)
  }

  addClaimed (key: string, count: number): void {
    const lane = this.#lane(key)
    lane.claimed += count
    add(this.#claimedOfValue, lane.fair, count)
    for (const { bucket } of lane.limits) add(this.#claimedOfBucket, bucket, count)
    this.#forget(lane)
  }

  /** Notes that a value had its turn. */
  served (fair: string | null): void {
    this.#turns.delete(fair)
    this.#turns.set(fair, ++this.#turn)
    for (const oldest of this.#turns.keys()) {
      if (this.#turns.size <= maxRemembered) break
      this.#turns.delete(oldest)
    }
  }

  /**
   * The lane whose oldest task is next: of the highest priority; there of the value with the fewest claimed tasks, of these the one that
   * waits longest for its turn; of this the oldest task that fits. None where room is kept for one that has waited too long: then
   * nothing of its own or a lower priority goes before it.
   */
  next (search: Search): { lane: Lane, head: LaneHead } | undefined {
    for (const priority of this.#priorities) {
      const turn = this.#nextTurn(this.#due.get(priority)!, search)
      if (turn !== undefined) return turn.isReserved ? undefined : turn
    }
    return undefined
  }

  #nextTurn (values: Map<string | null, Set<Lane>>, search: Search): Turn | undefined {
    let best: (Turn & { rank: readonly number[] }) | undefined
    for (const [fair, lanes] of values) {
      const rank = [this.#claimedOfValue.get(fair) ?? 0, this.#turns.get(fair) ?? 0]
      if (best !== undefined && compare(rank, best.rank) > 0) continue
      const turn = this.#turnOf(lanes, search)
      if (turn === undefined) continue
      const full = [...rank, turn.head.seq]
      if (best === undefined || compare(full, best.rank) < 0) best = { ...turn, rank: full }
    }
    return best
  }

  #turnOf (lanes: Set<Lane>, { pools, room, capacity, now }: Search): Turn | undefined {
    const turns: Turn[] = []
    for (const lane of lanes) {
      if (!pools.has(lane.pool) || !fits(lane.requests, capacity) || this.#isLimited(lane)) continue
      const hasRoom = fits(lane.requests, room)
      const head = lane.head ??= this.#options.findHead(lane.key)
      if (head === undefined) continue
      if (hasRoom || now - head.dueAt > this.#options.reserveAfterMs) turns.push({ lane, head, isReserved: !hasRoom })
    }
    return turns.length < 2 ? turns[0] : turns.reduce((first, turn) => turn.head.seq < first.head.seq ? turn : first)
  }

  #isLimited ({ limits }: Lane): boolean {
    return limits.some(({ bucket, max }) => (this.#claimedOfBucket.get(bucket) ?? 0) >= max)
  }

  #lane (key: string): Lane {
    const known = this.#lanes.get(key)
    if (known !== undefined) return known
    const [pool, priority, cpuMillis, memoryBytes, fair, ...values] = JSON.parse(key) as [string, number, number, number, string | null, ...(string | null)[]]
    const limits = this.#limitedLabels.flatMap((label, index) => this.#limitsOf(label, values[index] ?? null))
    const lane = { key, pool, priority, fair, requests: { cpuMillis, memoryBytes }, limits, due: 0, claimed: 0, head: undefined }
    this.#lanes.set(key, lane)
    return lane
  }

  #limitsOf (label: string, value: string | null): Array<{ bucket: string, max: number }> {
    if (value === null) return []
    const ofLabel = this.#options.labelLimits.filter(limit => limit.label === label)
    const limit = ofLabel.find(limit => limit.value === value) ?? ofLabel.find(limit => limit.value === undefined)
    return limit === undefined ? [] : [{ bucket: JSON.stringify([label, value]), max: limit.max }]
  }

  #forget (lane: Lane): void {
    if (lane.due === 0 && lane.claimed === 0) this.#lanes.delete(lane.key)
  }

  #list (lane: Lane): void {
    let values = this.#due.get(lane.priority)
    if (values === undefined) {
      values = new Map()
      this.#due.set(lane.priority, values)
      this.#priorities = [...this.#due.keys()].sort((a, b) => b - a)
    }
    const lanes = values.get(lane.fair)
    if (lanes === undefined) values.set(lane.fair, new Set([lane]))
    else lanes.add(lane)
  }

  #unlist (lane: Lane): void {
    const values = this.#due.get(lane.priority)
    const lanes = values?.get(lane.fair)
    if (values === undefined || lanes === undefined) return
    lanes.delete(lane)
    if (lanes.size === 0) values.delete(lane.fair)
    if (values.size > 0) return
    this.#due.delete(lane.priority)
    this.#priorities = this.#priorities.filter(priority => priority !== lane.priority)
  }
}

function fits (requests: Room, room: Room): boolean {
  return requests.cpuMillis <= room.cpuMillis && requests.memoryBytes <= room.memoryBytes
}

/** As far as both have figures. */
function compare (a: readonly number[], b: readonly number[]): number {
  for (let index = 0; index < Math.min(a.length, b.length); index++) {
    if (a[index] !== b[index]) return a[index]! - b[index]!
  }
  return 0
}

function add<K> (counts: Map<K, number>, key: K, count: number): void {
  const sum = (counts.get(key) ?? 0) + count
  if (sum === 0) counts.delete(key)
  else counts.set(key, sum)
}
