/** A host stays a worker of its gateway, whatever the gateway does. */
import assert from 'node:assert/strict'
import { status } from '@grpc/grpc-js'
import { writeFileSync } from 'node:fs'
import { Writable } from 'node:stream'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { pollUntil } from '../../../src/lib/poll.ts'
import { Membership, type MembershipOptions } from '../../../src/worker/membership.ts'
import { freePort } from '../../support/free-port.ts'
import { buildGateway, hostFacts } from './gateway-rig.ts'

const hostId = 'hst_two'

interface Circumstances extends Partial<MembershipOptions> {
  isOld?: boolean
  isThere?: boolean
  callTimeoutMs?: number
}

async function build (t: TestContext, { isOld = false, isThere = true, callTimeoutMs = 10_000, ...other }: Circumstances = {}) {
  const rig = await buildGateway(t, { isOld })
  const { gateway } = rig
  const port = await freePort()
  const come = () => gateway.listen(`127.0.0.1:${port}`)
  if (isThere) await come()
  const client = await rig.open(`127.0.0.1:${port}`, { callTimeoutMs })
  const logged: string[] = []
  const wishes: string[] = []
  const tokens: string[] = []
  const membership = new Membership({
    client,
    facts: async () => hostFacts,
    hostId,
    mintApiToken: () => tokens[tokens.push(`token-${tokens.length + 1}`) - 1],
    status: () => 'available',
    onWish: (wish, number) => { wishes.push(`${wish} ${number}`) },
    heartbeatMs: 20,
    backoff: { firstMs: 5, maxMs: 40 },
    logger: pino({}, new Writable({
      write (line, _encoding, done) {
        logged.push(String(line))
        done()
      },
    })),
    ...other,
  })
  t.after(() => membership.close())
  const until = async (isSo: () => boolean) => assert.ok(await pollUntil(async () => isSo(), 20_000), JSON.stringify([membership.state, gateway.calls.slice(-5)]))
  const registrations = () => gateway.calls.filter(call => call.startsWith('register ')).length
  const worker = () => gateway.workers.get(hostId)
  /** So many more heartbeats have arrived. */
  const beats = async (count: number) => {
    const before = worker()?.heartbeats ?? 0
    await until(() => (worker()?.heartbeats ?? 0) >= before + count)
  }
  return { ...rig, come, membership, logged, wishes, tokens, until, registrations, worker, beats }
}

test('a host registers once its gateway is there, however long that takes, and then beats', async t => {
  const { gateway, come, membership, tokens, until, registrations, worker, beats } = await build(t, { isThere: false })
  membership.start()
  membership.start()
  await until(() => membership.state.problem !== undefined)
  assert.equal(membership.state.isConnected, false)
  assert.match(membership.state.problem!, /does not answer/)
  await come()
  await until(() => membership.state.isConnected)
  await beats(3)
  assert.deepEqual([membership.state.workerId, membership.state.problem], [hostId, undefined])
  assert.ok(Date.parse(membership.state.lastHeartbeatAt!) <= Date.now())
  assert.deepEqual([registrations(), tokens.length, worker()?.registration.apiToken], [1, 1, 'token-1'])
  assert.equal(gateway.mostAtOnce, 1)
})

test('a host that was forgotten registers again, with another token, and one that is forgotten all the time goes on trying', async t => {
  const { gateway, membership, tokens, until, worker, beats, registrations } = await build(t)
  membership.start()
  await beats(1)
  gateway.forget()
  await until(() => worker() !== undefined)
  assert.deepEqual([worker()!.registration.apiToken, tokens.length], ['token-2', 2])
  await beats(2)
  gateway.refusals.heartbeat = { code: status.NOT_FOUND, details: 'who?' }
  const before = registrations()
  await until(() => registrations() >= before + 3)
  gateway.refusals = {}
  await beats(2)
  assert.equal(membership.state.isConnected, true)
})

test('a gateway that is silent for many heartbeats, then restarts, finds the same worker', async t => {
  const { gateway, membership, until, beats, registrations, logged } = await build(t, { callTimeoutMs: 150 })
  membership.start()
  await beats(1)
  gateway.isSilent = true
  const [{ knocks }, lines] = [gateway, logged.length]
  await until(() => gateway.knocks >= knocks + 5)
  assert.equal(membership.state.isConnected, false)
  assert.ok(logged.length <= lines + 2, logged.join(''))
  gateway.isSilent = false
  await beats(2)
  await gateway.restart()
  await beats(2)
  await until(() => membership.state.isConnected)
  assert.equal(registrations(), 1)
})

test('a gateway that is slow is waited for, and hears one call at a time', async t => {
  const { gateway, membership, beats } = await build(t)
  gateway.slowMs = 60
  membership.start()
  await beats(2)
  membership.setStatus('draining')
  await beats(2)
  assert.equal(gateway.mostAtOnce, 1)
})

test('answers that make no sense count as none', async t => {
  const { gateway, membership, until, beats, registrations } = await build(t)
  gateway.nonsense.registerWorker = { workerId: '' }
  membership.start()
  await until(() => registrations() >= 3)
  assert.deepEqual([membership.state.isConnected, membership.state.workerId], [false, undefined])
  gateway.nonsense = {}
  gateway.isGarbled = true
  await until(() => /INTERNAL/.test(membership.state.problem ?? ''))
  gateway.isGarbled = false
  await beats(2)
  await until(() => membership.state.isConnected)
})

test('a token that is refused is tried again, and read anew', async t => {
  const { gateway, tokenFile, membership, until, beats, tokens } = await build(t)
  gateway.token = 'another'
  membership.start()
  await until(() => gateway.knocks >= 2)
  assert.match(membership.state.problem!, /BERTH_GATEWAY_TOKEN_FILE/)
  assert.deepEqual(gateway.calls, [])
  writeFileSync(tokenFile, 'another\n')
  await beats(1)
  // What the gateway may have kept of a failed try stays good: there is one token for a registration.
  assert.equal(tokens.length, 1)
})

test('a status is told until the gateway knows it, the latest alone, and again to one that has forgotten', async t => {
  const { gateway, membership, until, beats, worker } = await build(t)
  membership.start()
  await beats(1)
  gateway.refusals.updateStatus = { code: status.INTERNAL, details: 'not now' }
  membership.setStatus('draining')
  await until(() => membership.state.problem !== undefined)
  // It is alive all the same.
  await beats(3)
  gateway.refusals = {}
  await until(() => worker()?.status === 'draining')
  membership.setStatus('available')
  membership.setStatus('draining')
  membership.setStatus('available')
  await until(() => worker()?.status === 'available')
  membership.setStatus('draining')
  await until(() => worker()?.status === 'draining')
  gateway.forget()
  await until(() => worker()?.registration.status === 'draining')
})

test('a status is told at once, and one that a gateway does not take keeps no heartbeat back', async t => {
  const hourMs = 3_600_000
  const { membership, until, worker } = await build(t, { heartbeatMs: hourMs })
  membership.start()
  await until(() => membership.state.isConnected)
  membership.setStatus('draining')
  await until(() => worker()?.status === 'draining')
  const other = await build(t, { backoff: { firstMs: hourMs, maxMs: hourMs } })
  other.membership.start()
  await other.beats(1)
  // Slower than it is to be heard of: a heartbeat is due by the time that it refuses.
  other.gateway.slowMs = 40
  other.gateway.refusals.updateStatus = { code: status.INVALID_ARGUMENT, details: 'draining? never heard of it' }
  other.membership.setStatus('draining')
  await other.until(() => other.membership.state.problem !== undefined)
  await other.beats(3)
})

test('a host that drains says so to a gateway whose registration knows no status', async t => {
  const { gateway, membership, until } = await build(t, { isOld: true, status: () => 'draining' })
  membership.start()
  await until(() => gateway.workers.get('worker-1')?.status === 'draining')
  await until(() => (gateway.workers.get('worker-1')?.heartbeats ?? 0) >= 2)
  gateway.forget()
  await until(() => gateway.workers.get('worker-2')?.status === 'draining')
  assert.equal(membership.state.workerId, 'worker-2')
})

test('a wish is carried out once, one that fails once more, and one that an earlier daemon has carried out not at all', async t => {
  const carriedOut: string[] = []
  const { gateway, membership, beats, until } = await build(t, {
    lastWish: 4,
    onWish: (wish, number) => {
      carriedOut.push(`${wish} ${number}`)
      if (carriedOut.length === 1) throw new Error('the disk is full')
    },
  })
  gateway.wish = { wish: 'drain', wishNumber: 4 }
  membership.start()
  await beats(2)
  gateway.wish = { wish: 'drain', wishNumber: 5 }
  await until(() => carriedOut.length === 2)
  await beats(3)
  gateway.wish = { wish: 'undrain', wishNumber: 6 }
  await until(() => carriedOut.length === 3)
  // Redis was emptied: it counts anew.
  gateway.wish = { wish: 'drain', wishNumber: 1 }
  await until(() => carriedOut.length === 4)
  // It has forgotten the worker, and with it what was wished.
  gateway.forget()
  await until(() => carriedOut.length === 5)
  await beats(3)
  assert.deepEqual(carriedOut, ['drain 5', 'drain 5', 'undrain 6', 'drain 1', 'drain 1'])
})

test('a host that cannot say what it is tells that, without its paths', async t => {
  let isBroken = true
  const { membership, until, beats } = await build(t, {
    facts: async () => {
      if (isBroken) throw new Error('ENOENT: /var/lib/berth')
      return hostFacts
    },
  })
  membership.start()
  await until(() => membership.state.problem !== undefined)
  assert.equal(membership.state.problem, 'this host cannot say what it is; see its log')
  isBroken = false
  await beats(1)
})

test('a host leaves for good, and is not kept by a gateway that says nothing', async t => {
  const { gateway, membership, beats, worker } = await build(t)
  membership.start()
  await beats(1)
  await membership.deregister()
  assert.deepEqual([worker(), membership.state.workerId], [undefined, undefined])
  const other = await build(t)
  other.membership.start()
  await other.beats(1)
  other.gateway.isSilent = true
  await other.membership.deregister(50)
  await other.membership.close()
  assert.ok(other.worker())
  assert.equal(gateway.calls.at(-1), `deregister ${hostId}`)
})

test('an end does not wait for a call under way, nor for one that never began', async t => {
  const { gateway, membership, until } = await build(t)
  await membership.close()
  const other = await build(t, { backoff: { firstMs: 3_600_000, maxMs: 3_600_000 }, isThere: false })
  other.membership.start()
  await other.until(() => other.membership.state.problem !== undefined)
  await other.membership.close()
  const third = await build(t, { callTimeoutMs: 3_600_000 })
  third.gateway.isSilent = true
  third.membership.start()
  await third.until(() => third.gateway.knocks > 0)
  await third.membership.close()
  await until(() => gateway.knocks === 0)
})
