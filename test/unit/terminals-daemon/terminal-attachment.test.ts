import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'
import { pollUntil } from '../../../src/lib/poll.ts'
import type { AttachOptions } from '../../../src/services/terminals/terminal-types.ts'
import { FakeTerminal, FakeViewer } from './viewer-rig.ts'

const MiB = 1024 ** 2

function build (t: TestContext, options: ConstructorParameters<typeof FakeTerminal>[0] = {}) {
  const terminal = new FakeTerminal(options)
  const runs: Array<{ run: Promise<void>, abort: AbortController }> = []
  t.after(async () => {
    for (const { abort } of runs) abort.abort()
    await Promise.allSettled(runs.map(({ run }) => run))
    terminal.remove()
  })
  return {
    terminal,
    attach (attachOptions: Partial<AttachOptions> = {}, viewer = new FakeViewer()) {
      const abort = new AbortController()
      const run = terminal.attach({ role: 'read', ...attachOptions }, viewer).run(abort.signal)
      run.catch(() => {})
      runs.push({ run, abort })
      return { viewer, run, abort }
    },
  }
}

const reaches = async (viewer: FakeViewer, offset: number) => assert.ok(await pollUntil(async () => viewer.position === offset, 10_000), `is at ${viewer.position}, not ${offset}`)

test('without since the screen of the present comes, then output', async t => {
  const { terminal, attach } = build(t)
  terminal.write(1000)
  const { viewer, run } = attach()
  await reaches(viewer, 1000)
  assert.equal(viewer.received, 0)
  terminal.write(500)
  terminal.exit()
  await run
  assert.deepEqual(viewer.types(), ['ready', 'screen', 'exit'])
  assert.deepEqual(viewer.events[0], { type: 'ready', offset: 1000, role: 'read', status: 'running', cols: 80, rows: 24 })
  assert.equal(viewer.received, 500)
})

test('since gives exactly what was missed', async t => {
  const { terminal, attach } = build(t)
  terminal.write(3 * MiB)
  const { viewer, run } = attach({ since: 12_345 })
  terminal.write(777)
  terminal.exit()
  await run
  assert.deepEqual(viewer.types(), ['ready', 'exit'])
  assert.equal(viewer.received, 3 * MiB + 777 - 12_345)
})

test('of what is not kept any more it is told by a gap, with the screen where the kept output begins', async t => {
  const { terminal, attach } = build(t, { segmentBytes: 1000, keptSegments: 3 })
  terminal.write(10_500)
  const { viewer, run } = attach({ since: 100 })
  terminal.exit()
  await run
  assert.deepEqual(viewer.types(), ['ready', 'gap', 'screen', 'exit'])
  assert.deepEqual(viewer.events[1], { type: 'gap', offset: 8000, bytes: 7900 })
  assert.equal(viewer.position, 10_500)
  assert.equal(viewer.received, 2500)
})

test('a reconnecting viewer has every byte once, whatever is written, sent, left out and broken off in between', { timeout: 60_000 }, async t => {
  const { terminal, attach } = build(t, { segmentBytes: 256 * 1024, keptSegments: 40 })
  let seed = 7
  const random = (limit: number) => {
    seed = (seed * 1103515245 + 12345) % 2 ** 31
    return seed % limit
  }
  const viewer = new FakeViewer()
  viewer.pause = async () => { if (random(4) === 0) await turn() }
  const writing = (async () => {
    for (let round = 0; round < 300; round++) {
      terminal.write(1 + random(random(10) === 0 ? 60_000 : 3000), { isSent: random(5) > 0 })
      await turn()
    }
    terminal.exit()
  })()
  let hasEnded = false
  while (!hasEnded) {
    const { run, abort } = attach({ since: viewer.position }, viewer)
    for (let turns = random(20); turns > 0; turns--) await turn()
    abort.abort()
    await run
    hasEnded = viewer.types().includes('exit')
  }
  await writing
  assert.equal(viewer.position, terminal.offset)
  assert.equal(viewer.received, terminal.offset)
  assert.ok(!viewer.types().includes('gap'))
})

test('one who stalls is skipped forward and told, and nobody else is', { timeout: 60_000 }, async t => {
  const { terminal, attach } = build(t)
  const others = Array.from({ length: 19 }, () => attach())
  const stalled = attach()
  await Promise.all([stalled, ...others].map(async ({ viewer }) => assert.ok(await pollUntil(async () => viewer.types().includes('screen'), 5000))))
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  stalled.viewer.pause = () => released
  for (let written = 0; written < 6 * MiB; written += 128 * 1024) {
    terminal.write(128 * 1024)
    await turn()
  }
  await Promise.all(others.map(({ viewer }) => reaches(viewer, 6 * MiB)))
  assert.ok(stalled.viewer.position < MiB)
  release()
  await reaches(stalled.viewer, 6 * MiB)
  assert.deepEqual(stalled.viewer.types(), ['ready', 'screen', 'gap', 'screen'])
  for (const { viewer } of others) {
    assert.deepEqual(viewer.types(), ['ready', 'screen'])
    assert.equal(viewer.received, 6 * MiB)
  }
  terminal.write(100)
  terminal.exit()
  await Promise.all([stalled, ...others].map(({ run }) => run))
  assert.ok([stalled, ...others].every(({ viewer }) => viewer.position === terminal.offset && viewer.types().at(-1) === 'exit'))
})

test('one who replays too slowly for what is kept goes on with the present', async t => {
  const { terminal, attach } = build(t, { segmentBytes: 100_000, keptSegments: 4 })
  terminal.write(350_000)
  const viewer = new FakeViewer()
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  viewer.pause = () => viewer.received > 0 ? released : Promise.resolve()
  const { run } = attach({ since: 0 }, viewer)
  assert.ok(await pollUntil(async () => viewer.received > 0, 5000))
  terminal.write(1_000_000, { isSent: false })
  release()
  await reaches(viewer, 1_350_000)
  terminal.exit()
  await run
  assert.deepEqual(viewer.types(), ['ready', 'gap', 'screen', 'exit'])
})

test('the size is told to all, and only the last to who is slow', async t => {
  const { terminal, attach } = build(t)
  const { viewer } = attach()
  const slow = attach()
  await Promise.all([viewer, slow.viewer].map(async one => assert.ok(await pollUntil(async () => one.types().includes('screen'), 5000))))
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  slow.viewer.pause = () => released
  for (let cols = 100; cols < 110; cols++) {
    terminal.resize(cols, 40)
    await delay(1)
  }
  assert.equal(viewer.events.filter(({ type }) => type === 'resize').length, 10)
  release()
  assert.ok(await pollUntil(async () => slow.viewer.types().filter(type => type === 'resize').length === 2, 5000))
  assert.deepEqual(slow.viewer.events.at(-1), { type: 'resize', cols: 109, rows: 40 })
})

test('one that has ended shows its last kept screen and what follows it, then the exit', async t => {
  const { terminal, attach } = build(t, { segmentBytes: 1000, keptSegments: 3 })
  terminal.write(4321)
  terminal.exit()
  const { viewer, run } = attach()
  await run
  assert.deepEqual(viewer.types(), ['ready', 'screen', 'exit'])
  assert.equal(viewer.position, 4321)
  assert.equal(viewer.received, 321)
})

test('a pty-host that cannot tell the present leaves the kept output', async t => {
  const { terminal, attach } = build(t, { segmentBytes: 1000, keptSegments: 3 })
  terminal.hasScreens = false
  terminal.write(2100)
  const { viewer } = attach()
  await reaches(viewer, 2100)
  assert.equal(viewer.received, 100)
})

test('one that is removed ends for everybody, also for who has not read it all', async t => {
  const { terminal, attach } = build(t)
  terminal.write(MiB)
  const viewer = new FakeViewer()
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  viewer.pause = () => viewer.received > 0 ? released : Promise.resolve()
  const { run } = attach({ since: 0 }, viewer)
  assert.ok(await pollUntil(async () => viewer.received > 0, 5000))
  terminal.remove()
  release()
  await run
  assert.deepEqual(viewer.events.at(-1), { type: 'exit', reason: 'deleted' })
})

test('an abort ends it while the viewer takes nothing', async t => {
  const { terminal, attach } = build(t)
  const viewer = new FakeViewer()
  viewer.pause = () => new Promise(() => {})
  const { run, abort } = attach({}, viewer)
  await delay(5)
  terminal.write(10)
  abort.abort()
  await run
})
