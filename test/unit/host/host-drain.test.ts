/** A host that is drained stays so until it is undrained, whatever happens in between. */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { pollUntil } from '../../../src/lib/poll.ts'
import { HostDrain } from '../../../src/services/host/host-drain.ts'

async function build (t: TestContext) {
  const dir = await mkdtemp(join(tmpdir(), 'berth-drain-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const path = join(dir, 'drain.json')
  const events: string[] = []
  /** As a daemon does at its start. */
  const open = async ({ stop = async () => {} }: { stop?: () => Promise<void> } = {}) => {
    const drain = await HostDrain.open({ path, events: { append: ({ type }) => events.push(type) }, logger: pino({ enabled: false }) })
    const changes: boolean[] = []
    let stops = 0
    drain.onChange(isDraining => changes.push(isDraining))
    drain.onStopDue(() => {
      stops++
      return stop()
    })
    drain.start()
    t.after(() => drain.close())
    return { drain, changes, stops: () => stops }
  }
  return { path, events, open }
}

const until = async (isSo: () => boolean) => assert.ok(await pollUntil(async () => isSo(), 20_000))

test('a host is drained once, and undrained once, however often it is asked for', async t => {
  const { events, open } = await build(t)
  const { drain, changes, stops } = await open()
  drain.assertTaking()
  await Promise.all([drain.drain({}), drain.drain({})])
  const { since } = drain.state!
  await drain.drain({ stopAfterMs: 3_600_000 })
  const { stopAt } = drain.state!
  assert.ok(Math.abs(Date.parse(stopAt!) - Date.now() - 3_600_000) < 60_000)
  await drain.drain({})
  assert.deepEqual(drain.state, { since, stopAt })
  assert.throws(() => drain.assertTaking(), { kind: 'unavailable', code: 'host_draining' })
  await drain.undrain()
  await drain.undrain()
  drain.assertTaking()
  assert.deepEqual([drain.state, changes, events, stops()], [undefined, [true, false], ['host.draining', 'host.undrained'], 0])
})

test('another daemon finds the host drained, and stops what is due', async t => {
  const { path, events, open } = await build(t)
  const first = await open()
  await first.drain.drain({ stopAfterMs: 3_600_000, wishNumber: 7 })
  await first.drain.close()
  const second = await open()
  assert.deepEqual([second.drain.state, second.drain.wishNumber, second.changes], [first.drain.state, 7, [true]])
  await second.drain.close()
  assert.deepEqual([first.stops(), second.stops(), events], [0, 0, ['host.draining']])
  const { drain: { since } } = JSON.parse(await readFile(path, 'utf8'))
  await writeFile(path, JSON.stringify({ drain: { since, stopAt: since } }))
  const third = await open()
  await until(() => third.stops() === 1)
  await third.drain.undrain({ wishNumber: 8 })
  const fourth = await open()
  assert.deepEqual([fourth.drain.isDraining, fourth.drain.wishNumber, fourth.changes], [false, 8, []])
})

test('tasks are stopped when it is time, not before an undrain that comes first', async t => {
  const { open } = await build(t)
  const { drain, stops } = await open()
  await drain.drain({ stopAfterMs: 60_000 })
  await drain.drain({ stopAfterMs: 0 })
  await until(() => stops() === 1)
  await drain.undrain()
  await drain.drain({ stopAfterMs: 3_600_000 })
  await drain.undrain()
  await drain.drain({ stopAfterMs: 10 })
  await until(() => stops() === 2)
})

test('stopping that fails is tried again, unless the host is undrained meanwhile', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { open } = await build(t)
  const { drain, stops } = await open({ stop: async () => { throw new Error('the queue is away') } })
  const settle = () => new Promise(resolve => setImmediate(resolve))
  await drain.drain({ stopAfterMs: 0 })
  for (const times of [1, 2]) {
    t.mock.timers.tick(60_000)
    await settle()
    assert.equal(stops(), times)
  }
  await drain.undrain()
  t.mock.timers.tick(60_000)
  await settle()
  assert.equal(stops(), 2)
})

test('a file that makes no sense drains nothing, and a disk that fails changes nothing', async t => {
  const { path, events, open } = await build(t)
  for (const text of ['', '{"drain":', 'null', '[1]', '{"drain":{"since":"soon"},"wishNumber":"x"}']) {
    await writeFile(path, text)
    const { drain, changes } = await open()
    assert.deepEqual([drain.isDraining, drain.wishNumber, changes], [false, undefined, []], text)
  }
  const { drain, changes } = await open()
  await writeFile(`${path}.tmp`, '')
  await rm(join(path, '..'), { recursive: true })
  await assert.rejects(drain.drain({}), { code: 'ENOENT' })
  assert.deepEqual([drain.isDraining, changes, events], [false, [], []])
})
