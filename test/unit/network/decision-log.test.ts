import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { DecisionGap, NetworkDecision } from '../../../src/schemas/network.ts'
import { openNetworkDatabase } from '../../../src/services/database.ts'
import { DecisionLog, type DecisionLogOptions, type NewDecision } from '../../../src/services/network/decision-log.ts'

const [a, b] = ['sbx_a', 'sbx_b'] as const
const at = '2026-03-01T09:30:00.000Z'

function build (t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-decisions-'))
  const path = join(dir, 'network.db')
  const opened: DecisionLog[] = []
  const warnings: string[] = []
  t.after(() => {
    for (const log of opened) log.close()
    rmSync(dir, { recursive: true })
  })
  const openLog = (options: Partial<DecisionLogOptions> = {}) => {
    const log = new DecisionLog({ db: openNetworkDatabase(path, { warn: (_fields, message) => { warnings.push(message) } }), ...options })
    opened.push(log)
    return log
  }
  return { path, openLog, warnings }
}

const denied = (sandboxId: string, other: Partial<NewDecision> = {}): NewDecision => ({ at, sandboxId, kind: 'packet', action: 'denied', reason: 'no_rule', count: 1, ...other })
const many = (count: number, sandboxId: string) => Array.from({ length: count }, () => denied(sandboxId))
const seqs = (decisions: NetworkDecision[]) => decisions.map(({ seq }) => seq)
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)

/** What a follower gets until `count` came, gaps as their negative seq. */
async function take (source: AsyncIterable<NetworkDecision | DecisionGap>, count: number): Promise<number[]> {
  const taken: number[] = []
  for await (const one of source) {
    taken.push('type' in one ? -one.seq : one.seq)
    if (taken.length === count) break
  }
  return taken
}

test('decisions are read back as they were appended, absent facts absent', t => {
  const log = build(t).openLog()
  const plain = denied(a)
  const whole = denied(a, { kind: 'dns', action: 'allowed', reason: 'rule', count: 3, name: 'api.example.com', entry: '*.example.com', protocol: 'udp', address: '203.0.113.7', port: 53 })
  log.append([plain, whole])
  assert.deepEqual(log.list({ sandboxId: a, limit: 10 }), [{ seq: 1, ...plain }, { seq: 2, ...whole }])
  assert.equal(log.lastSeq, 2)
})

test('a list is of one sandbox, and by place, action and kind', t => {
  const log = build(t).openLog()
  log.append([denied(a), denied(b), denied(a, { kind: 'dns' }), denied(a, { action: 'allowed' }), denied(a, { kind: 'dns', action: 'allowed' })])
  const list = (filter: object) => seqs(log.list({ sandboxId: a, limit: 10, ...filter }))
  assert.deepEqual(list({}), [1, 3, 4, 5])
  assert.deepEqual(list({ after: 1, limit: 2 }), [3, 4])
  assert.deepEqual(list({ kind: 'dns' }), [3, 5])
  assert.deepEqual(list({ action: 'allowed' }), [4, 5])
  assert.deepEqual(list({ action: 'denied', kind: 'dns' }), [3])
  assert.deepEqual(list({ sandboxId: 'sbx_c' }), [])
})

test('an append that cannot be whole leaves nothing', t => {
  const log = build(t).openLog()
  assert.throws(() => log.append([denied(a), denied(a, { count: null as unknown as number })]))
  assert.deepEqual(log.list({ sandboxId: a, limit: 10 }), [])
  log.append([denied(a)])
  assert.equal(log.list({ sandboxId: a, limit: 10 }).length, 1)
})

test('recorded decisions wait for one write, which a list, a full batch and the end bring forward', async t => {
  const { openLog } = build(t)
  const log = openLog({ gatherMs: 3_600_000 })
  for (const _ of range(1, 3)) log.record(denied(a))
  assert.equal(log.lastSeq, 0)
  assert.deepEqual(seqs(log.list({ sandboxId: a, limit: 10 })), [1, 2, 3])
  for (const _ of range(1, 1000)) log.record(denied(a))
  assert.equal(log.lastSeq, 1003)
  log.record(denied(a))
  log.close()
  log.record(denied(a))
  assert.equal(openLog().lastSeq, 1004)
})

test('recorded decisions are written by themselves', async t => {
  const log = build(t).openLog({ gatherMs: 1 })
  const following = take(log.follow({ sandboxId: a, signal: t.signal }), 2)
  await setImmediate()
  log.record(denied(a))
  log.record(denied(a))
  assert.deepEqual(await following, [1, 2])
})

test('what cannot be written is told and does no harm', t => {
  const lost: number[] = []
  const log = build(t).openLog({ gatherMs: 3_600_000, onError: (_error, count) => { lost.push(count) } })
  log.record(denied(a, { count: null as unknown as number }))
  log.record(denied(a))
  assert.deepEqual(log.list({ sandboxId: a, limit: 10 }), [])
  assert.deepEqual(lost, [2])
})

test('followers get what was and then what comes, each once, filtered or not', async t => {
  const log = build(t).openLog()
  log.append(many(700, a))
  const follow = (filter: object, count: number) => take(log.follow({ sandboxId: a, signal: t.signal, ...filter }), count)
  const followers = [follow({}, 1000), follow({ after: 600 }, 400), follow({ kind: 'dns' }, 100)]
  for (let round = 0; round < 100; round++) {
    log.append([denied(a), denied(b), denied(a), denied(a, { kind: 'dns' })])
    if (round % 7 === 0) await setImmediate()
  }
  const ofA = seqs(log.list({ sandboxId: a, limit: 2000 }))
  const [all, later, dns] = await Promise.all(followers)
  assert.equal(ofA.length, 1000)
  assert.deepEqual(all, ofA)
  assert.deepEqual(later, ofA.filter(seq => seq > 600))
  assert.deepEqual(dns, range(0, 99).map(round => 704 + 4 * round))
})

test('abort and close end waiting followers without an error', async t => {
  const log = build(t).openLog()
  const controller = new AbortController()
  const aborted = take(log.follow({ sandboxId: a, signal: controller.signal }), 1)
  const closed = take(log.follow({ sandboxId: a, signal: t.signal }), 1)
  await setImmediate()
  controller.abort()
  assert.deepEqual(await aborted, [])
  log.close()
  assert.deepEqual(await closed, [])
})

test('a sandbox keeps so many decisions and takes none from another; readers learn of what is gone', async t => {
  const { openLog } = build(t)
  const log = openLog({ maxPerSandbox: 100 })
  log.append([denied(b)])
  assert.equal(log.gap(a), undefined)
  for (const _ of range(1, 50)) log.append(many(30, a))
  const kept = seqs(log.list({ sandboxId: a, limit: 1000 }))
  assert.ok(kept.length <= 100 && kept.length >= 98, `${kept.length} are kept`)
  assert.deepEqual(kept, range(1501 - kept.length + 1, 1501))
  assert.equal(log.gap(a)?.seq, kept[0]! - 1)
  assert.equal(log.gap(a, kept[0]! - 1), undefined)
  assert.deepEqual([seqs(log.list({ sandboxId: b, limit: 10 })), log.gap(b)], [[1], undefined])
  assert.deepEqual(await take(log.follow({ sandboxId: a, signal: t.signal }), kept.length + 1), [-(kept[0]! - 1), ...kept])
  log.close()
  const again = openLog({ maxPerSandbox: 100 })
  again.append(many(30, a))
  assert.ok(again.list({ sandboxId: a, limit: 1000 }).length <= 100)
  assert.ok(again.gap(a)!.seq > kept[0]!)
})

test('a follower that is overtaken is told, and goes on behind the gap', async t => {
  const log = build(t).openLog({ maxPerSandbox: 10 })
  log.append(many(5, a))
  const follower = log.follow({ sandboxId: a, signal: t.signal })
  const first = await follower.next()
  assert.equal((first.value as NetworkDecision).seq, 1)
  log.append(many(20, a))
  assert.deepEqual(await take(follower, 4 + 1 + 10), [2, 3, 4, 5, -15, ...range(16, 25)])
})

test('pruning removes what is too old, says so, and keeps the rest', async t => {
  const now = Date.parse(at)
  const old = new Date(now - 1001).toISOString()
  const log = build(t).openLog({ maxAgeMs: 1000, now: () => now, maxPerSandbox: 3000 })
  log.append([...many(2500, a).map(one => ({ ...one, at: old })), denied(a), denied(b)])
  assert.equal(await log.prune(), 2500)
  assert.deepEqual([seqs(log.list({ sandboxId: a, limit: 10 })), log.gap(a)?.seq], [[2501], 2500])
  assert.deepEqual([seqs(log.list({ sandboxId: b, limit: 10 })), log.gap(b)], [[2502], undefined])
  assert.equal(await log.prune(), 0)
  log.append(many(2999, a))
  assert.equal(log.list({ sandboxId: a, limit: 5000 }).length, 3000, 'what was pruned counts no more')
})

test('a forgotten sandbox leaves nothing, not even what waits', t => {
  const log = build(t).openLog({ maxPerSandbox: 10, gatherMs: 3_600_000 })
  log.append([...many(50, a), denied(b)])
  log.record(denied(a))
  log.forget(a)
  assert.deepEqual([log.list({ sandboxId: a, limit: 100 }), log.gap(a)], [[], undefined])
  assert.equal(log.list({ sandboxId: b, limit: 100 }).length, 1)
  log.append([denied(a)])
  assert.ok(log.list({ sandboxId: a, limit: 100 })[0]!.seq > 51)
})

test('a damaged database is begun anew, with seqs beyond the old', t => {
  const { openLog, path, warnings } = build(t)
  const before = openLog()
  before.append(many(5, a))
  before.close()
  writeFileSync(path, 'x'.repeat(9000))
  const log = openLog()
  assert.match(warnings[0]!, /decisions database is damaged/)
  log.append([denied(a)])
  assert.ok(log.lastSeq > 5)
})
