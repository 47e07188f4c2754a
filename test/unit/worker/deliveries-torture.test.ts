import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { DeliveriesRig } from './deliveries-rig.ts'

/** Each daemon comes a step further than the one before. */
const mostDeaths = 60
/** The order in which a delivery is told of, for the first time each. */
const order = ['taken', 'start', 'started', 'settle', 'ended', 'gateway failed']

/** A task that is run while the daemon dies at one of its steps; then another daemon goes on. Answers the steps of the first. */
async function runThrough (t: TestContext, killAt?: { step: number, when: 'before' | 'after' }): Promise<number> {
  const rig = new DeliveriesRig(t)
  rig.endOf = () => ({ exitCode: 7 })
  const [id] = await rig.push({})
  const { lifeline } = await rig.start(killAt && { killAt })
  await rig.until(() => lifeline.isDead || (rig.task(id!).endedAt !== undefined && rig.local.unreported().length === 0))
  if (lifeline.isDead) {
    await rig.kill()
    await rig.start()
    await rig.untilReported(id!)
  }
  assert.deepEqual(rig.task(id!).history.map(({ status }) => status), ['pending', 'scheduled', 'running', 'failed'])
  assert.equal(rig.task(id!).end?.exitCode, 7)
  assert.equal(rig.made.length, 1, 'it was run once')
  const told = rig.told.map(line => line.startsWith('gateway') ? line.split(' ').slice(0, 2).join(' ') : line.split(' ')[0]!)
  assert.deepEqual([...new Set(told)].filter(what => what !== 'gateway started'), order)
  assert.ok(told.indexOf('gateway started') > told.indexOf('started'), 'the gateway is told nothing first')
  assert.equal(told.at(-1), 'gateway failed')
  await rig.end()
  return lifeline.steps
}

test('wherever a daemon dies, a task is run once, settled once, and told of in order', async t => {
  const steps = await runThrough(t)
  assert.ok(steps > 15, `there are steps to die at: ${steps}`)
  for (let step = 1; step <= steps; step++) {
    for (const when of ['before', 'after'] as const) {
      await t.test(`dead ${when} step ${step}`, async t => { await runThrough(t, { step, when }) })
    }
  }
})

test('a daemon that dies again and again comes to the end all the same', async t => {
  const rig = new DeliveriesRig(t)
  rig.endOf = () => ({ exitCode: 0 })
  const ids = await rig.push({}, {}, {})
  for (let step = 2; step < mostDeaths && ids.some(id => rig.task(id).endedAt === undefined); step++) {
    const { lifeline } = await rig.start({ killAt: { step, when: step % 2 === 0 ? 'after' : 'before' } })
    await rig.until(() => lifeline.isDead || ids.every(id => rig.task(id).endedAt !== undefined))
    await rig.kill()
  }
  await rig.start()
  await rig.untilReported(...ids)
  assert.equal(rig.made.length, 3)
  assert.deepEqual(ids.map(id => rig.task(id).history.length), [4, 4, 4])
})
