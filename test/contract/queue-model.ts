/** Random operations, compared with a queue so simple that it is seen to be right: a list that is searched. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
import { BerthError } from '../../src/errors.ts'
import type { Claim, ClaimId, ClaimRequest, LabelLimit, Outcome, Room } from '../../src/services/tasks/task-queue.ts'
import type { NewTask, TaskRecord } from '../../src/services/tasks/task-record.ts'
import { pick, seededRandom, type Random } from '../kill-loop/random.ts'
import { cancelled, complete, facts, failed, leaseMs, newTask, queueDefaults, type BuildQueue, type QueueRig } from './queue-rig.ts'

const seeds = [1, 2, 3]
const operations = 400
const owners = ['hst_a', 'hst_b']
const maxReturns = 3
const labelLimits: LabelLimit[] = [{ label: 'team', value: 'blue', max: 1 }, { label: 'team', max: 3 }]

interface ModelTask extends Pick<NewTask, 'id' | 'spec'> {
  status: TaskRecord['status']
  availableAt: number
  attempt: number
  lastAttempt: number
  faults: number
  fence: number
  owner?: string
  leaseUntil: number
  isCancelRequested: boolean
  isDeadLetter: boolean
  /** Numbers of the deliveries that counted, and 0 for each that did not. */
  deliveries: number[]
}

export function testQueueModel (name: string, build: BuildQueue): void {
  for (const seed of seeds) {
    test(`${name}: random operations do what the model does (seed ${seed})`, async t => {
      const rig = await build(t, { ...queueDefaults, labelLimits, maxReturns, reserveAfterMs: Number.MAX_SAFE_INTEGER })
      const random = seededRandom(seed)
      const model = new QueueModel(rig, random)
      for (let index = 0; index < operations; index++) {
        const [weight, step] = chooseStep(model, random)
        try {
          await step()
          if (index % 20 === 0 || weight === 0) await model.compareStats()
        } catch (error) {
          throw new Error(`operation ${index} of seed ${seed}`, { cause: error })
        }
      }
      assert.ok(model.tasks.some(({ status }) => status === 'complete') && model.tasks.some(({ isDeadLetter }) => isDeadLetter), 'something has happened')
    })
  }
}

type Step = [weight: number, step: () => Promise<void>]

function chooseStep (model: QueueModel, random: Random): Step {
  const steps: Step[] = [
    [6, () => model.push()], [8, () => model.claim()], [4, () => model.start()], [8, () => model.settle()], [3, () => model.release()],
    [2, () => model.cancel()], [1, () => model.retry()], [2, () => model.renew()], [1, () => model.held()], [5, () => model.advance()], [1, () => model.rig.reopen()],
  ]
  let left = random() * steps.reduce((sum, [weight]) => sum + weight, 0)
  return steps.find(([weight]) => (left -= weight) < 0) ?? steps[0]!
}

class QueueModel {
  readonly tasks: ModelTask[] = []
  readonly rig: QueueRig
  readonly #random: Random
  readonly #claims: ClaimId[] = []
  readonly #settled = new Map<string, Outcome>()

  constructor (rig: QueueRig, random: Random) {
    this.rig = rig
    this.#random = random
  }

  async push (): Promise<void> {
    const tenant = pick(this.#random, ['', 'x', 'y', 'z'])
    const team = pick(this.#random, ['', 'blue', 'red'])
    const task = newTask({
      labels: { ...tenant !== '' && { tenant }, ...team !== '' && { team } },
      pool: pick(this.#random, ['default', 'other']),
      priority: pick(this.#random, [0, 0, 0, 1, -1]),
      requests: pick(this.#random, [{ cpuMillis: 1000, memoryBytes: 1000 }, { cpuMillis: 3000, memoryBytes: 10 }]),
      delayMs: pick(this.#random, [0, 0, 0, 300, 5000]),
      maxAttempts: pick(this.#random, [1, 2, 3]),
    })
    await this.rig.queue.push([task])
    const { id, spec, delayMs } = task
    this.tasks.push({
      id,
      spec,
      status: 'pending',
      availableAt: this.rig.now() + delayMs,
      attempt: 1,
      lastAttempt: spec.maxAttempts,
      faults: 0,
      fence: 0,
      leaseUntil: Infinity,
      isCancelRequested: false,
      isDeadLetter: false,
      deliveries: [],
    })
  }

  async claim (): Promise<void> {
    const room = pick(this.#random, [{ cpuMillis: 1500, memoryBytes: 5000 }, { cpuMillis: 5000, memoryBytes: 1500 }, { cpuMillis: 90_000, memoryBytes: 90_000 }])
    const request: ClaimRequest = {
      owner: pick(this.#random, owners),
      pools: pick(this.#random, [['default'], ['default', 'other']]),
      limit: pick(this.#random, [1, 1, 2, 5]),
      leaseMs,
      room,
      capacity: { cpuMillis: 90_000, memoryBytes: 90_000 },
    }
    const now = this.rig.now()
    for (const task of this.tasks) if (task.leaseUntil <= now && task.owner !== request.owner) this.#giveBack(task, 0, true)
    const claims = await this.rig.queue.claim(request)
    const left = { ...room }
    for (const claim of claims) this.#deliver(claim, request, left)
    if (claims.length < request.limit) assert.deepEqual(this.#eligible(request, left).map(({ id }) => id), [], 'nothing is left out')
    assert.ok(claims.length <= request.limit)
  }

  async start (): Promise<void> {
    const claim = this.#someClaim()
    const task = claim && this.#holder(claim)
    if (claim === undefined) return
    if (task === undefined) return await refused(this.rig.queue.start(claim, facts(this.rig)), 'stale_claim')
    await this.rig.queue.start(claim, facts(this.rig))
    task.status = 'running'
  }

  async settle (): Promise<void> {
    const claim = this.#someClaim()
    if (claim === undefined) return
    const outcome = pick(this.#random, [complete(this.rig), complete(this.rig), failed(this.rig), failed(this.rig), failed(this.rig, { reason: 'setup_failed' }, false), cancelled(this.rig)])
    const task = this.#holder(claim)
    const before = this.#settled.get(JSON.stringify(claim))
    if (task === undefined && isDeepStrictEqual(before, outcome)) return void await this.rig.queue.settle(claim, outcome)
    if (task === undefined) return await refused(this.rig.queue.settle(claim, outcome), 'stale_claim')
    this.#settled.set(JSON.stringify(claim), outcome)
    const record = await this.rig.queue.settle(claim, outcome)
    task.deliveries.push(task.attempt)
    task.owner = undefined
    task.leaseUntil = Infinity
    task.faults = 0
    if (outcome.status === 'failed' && task.isCancelRequested) task.status = 'cancelled'
    else if (outcome.status === 'failed' && outcome.isRetryable && task.attempt < task.lastAttempt) {
      task.status = 'pending'
      task.attempt++
      task.availableAt = Date.parse(record.availableAt)
    } else {
      task.status = outcome.status
      task.isDeadLetter = outcome.status === 'failed' && (task.attempt > 1 || outcome.end.reason === 'setup_failed')
    }
    this.#compare(record, task)
  }

  async release (): Promise<void> {
    const claim = this.#someClaim()
    if (claim === undefined) return
    const options = { delayMs: pick(this.#random, [0, 500]), isFault: this.#random() < 0.7 }
    const task = this.#holder(claim)
    if (task === undefined) return await refused(this.rig.queue.release(claim, options), 'stale_claim')
    this.#giveBack(task, options.delayMs, options.isFault)
    this.#compare(await this.rig.queue.release(claim, options), task)
  }

  async cancel (): Promise<void> {
    const task = this.#someTask()
    if (task === undefined) return
    if (task.status === 'pending') task.status = 'cancelled'
    if (['scheduled', 'running', 'cancelled'].includes(task.status)) task.isCancelRequested ||= task.status !== 'cancelled'
    this.#compare(await this.rig.queue.cancel(task.id), task)
  }

  async retry (): Promise<void> {
    const task = this.#someTask()
    if (task === undefined) return
    if (task.status !== 'failed' && task.status !== 'cancelled') return await refused(this.rig.queue.retry(task.id), 'invalid_state')
    const used = Math.max(0, ...task.deliveries)
    Object.assign(task, {
      status: 'pending', attempt: used + 1, lastAttempt: used + task.spec.maxAttempts, faults: 0, isCancelRequested: false, isDeadLetter: false, availableAt: this.rig.now(),
    })
    this.#compare(await this.rig.queue.retry(task.id), task)
  }

  async renew (): Promise<void> {
    const claims = [...new Set([this.#someClaim(), this.#someClaim(), this.#someClaim()])].filter(claim => claim !== undefined)
    const renewals = await this.rig.queue.renew(claims, leaseMs)
    assert.deepEqual(renewals.map(({ isHeld }) => isHeld), claims.map(claim => this.#holder(claim) !== undefined))
    for (const { isCancelRequested, ...claim } of renewals) {
      const task = this.#holder(claim)
      assert.equal(isCancelRequested, task?.isCancelRequested ?? false)
      if (task) task.leaseUntil = this.rig.now() + leaseMs
    }
  }

  async held (): Promise<void> {
    const owner = pick(this.#random, owners)
    const expected = this.tasks.filter(task => task.owner === owner)
    const held = await this.rig.queue.held(owner, leaseMs)
    assert.deepEqual(held.map(({ taskId, fence }) => [taskId, fence]), expected.map(({ id, fence }) => [id, fence]))
    for (const task of expected) task.leaseUntil = this.rig.now() + leaseMs
  }

  async advance (): Promise<void> {
    await this.rig.advance(pick(this.#random, [1, 100, 1000, 6000]))
  }

  async compareStats (): Promise<void> {
    const now = this.rig.now()
    const counts = new Map<string, Record<string, number | string>>()
    for (const { spec: { pool }, status, availableAt, isDeadLetter } of this.tasks) {
      const one = counts.get(pool) ?? { pool, delayed: 0, pending: 0, scheduled: 0, running: 0, deadLetters: 0 }
      const place = status === 'pending' && availableAt > now ? 'delayed' : status
      if (place in one) (one[place] as number)++
      if (isDeadLetter) (one.deadLetters as number)++
      counts.set(pool, one)
    }
    const stats = (await this.rig.queue.stats()).map(({ oldestPendingAt, ...one }) => one)
    const expected = [...counts.values()].filter(one => Object.values(one).some(value => typeof value === 'number' && value > 0))
    assert.deepEqual(stats, expected.sort((a, b) => a.pool! < b.pool! ? -1 : 1))
  }

  #deliver (claim: Claim, request: ClaimRequest, left: Room): void {
    const eligible = this.#eligible(request, left)
    const priority = Math.max(...eligible.map(({ spec }) => spec.priority))
    const first = eligible.filter(({ spec }) => spec.priority === priority)
    const fewest = Math.min(...first.map(task => this.#claimedLike(task, 'tenant')))
    const task = first.find(({ id }) => id === claim.taskId)
    assert.ok(task, 'it may be claimed, and none of a higher priority')
    assert.equal(this.#claimedLike(task, 'tenant'), fewest, 'none of its kind has its turn before it')
    assert.equal(first.find(({ spec }) => spec.labels.tenant === task.spec.labels.tenant), task, 'it is the oldest of its value')
    assert.ok(claim.fence > task.fence)
    Object.assign(task, { status: 'scheduled', fence: claim.fence, owner: request.owner, leaseUntil: this.rig.now() + request.leaseMs })
    left.cpuMillis -= task.spec.requests.cpuMillis
    left.memoryBytes -= task.spec.requests.memoryBytes
    this.#claims.push({ taskId: claim.taskId, fence: claim.fence })
    this.#compare(claim.task, task)
  }

  #eligible ({ pools }: ClaimRequest, room: Room): ModelTask[] {
    return this.tasks.filter(({ status, availableAt, spec: { pool, requests, labels } }, index) => {
      const max = labels.team === undefined ? Infinity : labels.team === 'blue' ? 1 : 3
      return status === 'pending' && availableAt <= this.rig.now() && pools.includes(pool) && this.#claimedLike(this.tasks[index]!, 'team') < max &&
        requests.cpuMillis <= room.cpuMillis && requests.memoryBytes <= room.memoryBytes
    })
  }

  #claimedLike (task: ModelTask, label: string): number {
    return this.tasks.filter(other => other.owner !== undefined && other.spec.labels[label] === task.spec.labels[label]).length
  }

  #giveBack (task: ModelTask, delayMs: number, isFault: boolean): void {
    task.deliveries.push(0)
    task.owner = undefined
    task.leaseUntil = Infinity
    if (isFault) task.faults++
    task.status = task.isCancelRequested ? 'cancelled' : task.faults >= maxReturns ? 'failed' : 'pending'
    task.isDeadLetter = task.status === 'failed'
    task.availableAt = this.rig.now() + delayMs
  }

  #compare (record: TaskRecord, task: ModelTask): void {
    const counted = record.attempts.filter(({ status }) => status !== 'scheduled' && status !== 'running').map(({ number, status }) => status === 'returned' ? 0 : number)
    assert.deepEqual([record.id, record.status, record.attempt, record.isDeadLetter ?? false, counted], [task.id, task.status, task.attempt, task.isDeadLetter, task.deliveries])
    assert.equal(record.history.at(-1)?.status, task.status)
    if (task.status === 'pending') assert.equal(Date.parse(record.availableAt), task.availableAt)
  }

  #holder ({ taskId, fence }: ClaimId): ModelTask | undefined {
    return this.tasks.find(task => task.id === taskId && task.fence === fence && task.owner !== undefined)
  }

  /** Mostly one of late. */
  #someClaim (): ClaimId | undefined {
    return this.#claims.length === 0 ? undefined : pick(this.#random, this.#random() < 0.8 ? this.#claims.slice(-8) : this.#claims)
  }

  #someTask (): ModelTask | undefined {
    return this.tasks.length === 0 ? undefined : pick(this.#random, this.tasks)
  }
}

async function refused (promise: Promise<unknown>, code: string): Promise<void> {
  await assert.rejects(promise, (error: unknown) => error instanceof BerthError && error.code === code)
}
