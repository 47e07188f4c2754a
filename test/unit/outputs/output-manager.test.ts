import assert from 'node:assert/strict'
import { appendFile, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { startPlace } from '../../../src/services/outputs/output-place.ts'
import { newOutputPair } from '../../../src/services/outputs/output-pair.ts'
import { SinkBusy, SinkRefusal } from '../../../src/services/outputs/output-sink.ts'
import { build, line, until, webhook } from './output-fixture.ts'

const numbered = (count: number, from = 0): string[] => Array.from({ length: count }, (_, at) => `line ${from + at}`)
const asLog = (texts: readonly string[]): Buffer => Buffer.concat(texts.map((text, at) => line(text, at % 3 === 0 ? 'stderr' : 'stdout')))

test('a live log is delivered while it is written, statuses beside it and the last one behind it', async t => {
  const { manager, destination, task, path, done } = await build(t)
  const to = destination('a')
  const one = (await task('one', [webhook('a')])).become('pending')
  manager.begin(one)
  await until('the first status', () => to.statuses.length === 1)
  assert.equal(to.taken.length, 0)
  await writeFile(path('one', 'log'), asLog(['first']))
  one.become('scheduled').become('running')
  manager.begin(one)
  manager.wake('one')
  await until('the first line', () => to.taken.length === 1)
  await appendFile(path('one', 'log'), Buffer.concat([line('second'), line('half', 'stdout', 'P')]))
  await until('the second line', () => to.taken.length === 2)
  assert.deepEqual((await manager.states('one')).map(({ status, entries }) => [status, entries]), [['shipping', 2]])
  assert.equal(manager.protectedGeneration('one'), 0)
  let statusesWhenTaken = -1
  to.after = () => { statusesWhenTaken = to.statuses.length }
  one.become('complete')
  manager.wake('one')
  await until('the end', () => done.length === 1)
  assert.deepEqual(to.unique().map(({ data, isLineEnd }) => [data.toString(), isLineEnd]), [['first', true], ['second', true], ['half', false]])
  assert.equal(statusesWhenTaken, 3)
  assert.deepEqual(to.statuses.map(({ seq, status }) => `${seq} ${status}`), ['0 pending', '1 scheduled', '2 running', '3 complete'])
  assert.equal(manager.size, 0)
  assert.equal(manager.protectedGeneration('one'), undefined)
  assert.deepEqual((await manager.states('one')).map(({ status, entries }) => [status, entries]), [['complete', 3]])
})

test('an output that is done stays done when it is begun again, and goes on when the task is tried again', async t => {
  const { manager, newManager, destination, task, path, done } = await build(t)
  const to = destination('a')
  const one = (await task('one', [webhook('a')])).become('running').become('failed')
  await writeFile(path('one', 'log'), Buffer.concat([line('one'), line('unfinished \u20ac'.slice(0, -1), 'stdout', 'P')]))
  manager.begin(one)
  await until('the end', () => done.length === 1)
  const { tries } = to
  newManager().begin(one)
  await until('the end again', () => done.length === 2)
  assert.equal(to.tries, tries)
  assert.equal(to.statuses.length, 2)
  await rename(path('one', 'log'), path('one', 'log.0'))
  await writeFile(path('one', 'log'), line('two'))
  one.become('pending').become('running').become('complete')
  manager.begin(one)
  await until('the second end', () => done.length === 3)
  assert.deepEqual(to.taken.map(({ seq, data }) => `${seq} ${data}`), ['0 one', '1 unfinished ', '2 two'])
  assert.deepEqual(to.statuses.map(({ seq }) => seq), [0, 1, 2, 3, 4])
})

test('a task that is tried again and ends while its output is still under way is delivered whole', async t => {
  const { manager, destination, task, path, done } = await build(t)
  const to = destination('a')
  const gate = Promise.withResolvers<void>()
  to.after = () => gate.promise
  const one = (await task('one', [webhook('a')])).become('running').become('failed')
  await writeFile(path('one', 'log'), line('one'))
  manager.begin(one)
  await until('the first delivery', () => to.writing === 1)
  await rename(path('one', 'log'), path('one', 'log.0'))
  await writeFile(path('one', 'log'), line('two'))
  one.become('pending').become('running').become('complete')
  manager.wake('one')
  gate.resolve()
  await until('the end', () => done.length === 1)
  assert.deepEqual(to.texts(), ['one', 'two'])
  assert.equal(to.statuses.length, 5)
})

test('killed at any moment between taking, confirming and writing down, nothing is missing and numbers stay', async t => {
  const { newManager, destination, task, path, done } = await build(t)
  let count = 0
  await fc.assert(fc.asyncProperty(fc.array(fc.record({ after: fc.integer({ min: 1, max: 6 }), keep: fc.constantFrom('new', 'old', 'torn', 'none') }), { maxLength: 4 }), fc.integer({ min: 1, max: 3 }),
    async (kills, batchesInFlight) => {
      const name = `t${count++}`
      const to = destination(name, { batchEntries: 3, batchesInFlight })
      const one = (await task(name, [webhook(name)])).become('running').become('complete')
      const texts = numbered(40)
      await writeFile(path(name, 'log'), asLog(texts))
      const file = path(name, 'outputs', '0.json')
      for (const { after, keep } of kills) {
        const before = await readFile(file).catch(() => undefined)
        const manager = newManager()
        let isKilled = false
        let batches = 0
        to.after = () => {
          if (++batches < after) return
          isKilled = true
          return new Promise(() => undefined)
        }
        manager.begin(one)
        await until('the kill or the end', () => isKilled || done.includes(name))
        // A manager that forgets writes nothing more: what is on disk then is what a kill leaves.
        await manager.forget(name)
        if (keep === 'old' && before) await writeFile(file, before)
        else if (keep === 'torn') await writeFile(file, (await readFile(file).catch(() => Buffer.from('{}'))).subarray(0, 30)).catch(() => undefined)
        else if (keep === 'none' || keep === 'old') await rm(file, { force: true })
      }
      to.after = () => undefined
      done.splice(0)
      newManager().begin(one)
      await until('the end', () => done.includes(name))
      done.splice(0)
      assert.deepEqual(to.texts(), texts)
      if (kills.length === 0) assert.equal(to.taken.length, texts.length, 'repeated without a reason')
    }), { numRuns: 25 })
})

test('stopped at a clean place and begun again, nothing is repeated', async t => {
  const { newManager, destination, task, path } = await build(t)
  const to = destination('a', { batchEntries: 2 })
  to.before = () => sleep(2)
  const one = (await task('one', [webhook('a')])).become('running')
  await writeFile(path('one', 'log'), asLog(numbered(60)))
  while (to.taken.length < 60) {
    const manager = newManager()
    const seen = to.taken.length
    manager.begin(one)
    await until('some more', () => to.taken.length > seen + 5 || to.taken.length === 60)
    await manager.close()
  }
  assert.equal(to.taken.length, 60)
  assert.deepEqual(to.texts(), numbered(60))
})

test('an outage delays, the same batches come again, and memory stays small', async t => {
  const { manager, destination, task, path, done } = await build(t)
  const to = destination('a', { batchEntries: 100, batchBytes: 4000, batchesInFlight: 3 })
  const attempts: string[] = []
  let isDown = true
  to.before = batch => {
    if (batch.length > 0) attempts.push(`${batch[0]!.seq}-${batch.at(-1)!.seq}`)
    if (isDown && batch.length > 0) throw new Error('out of order')
  }
  const one = (await task('one', [webhook('a')])).become('running')
  manager.begin(one)
  const texts = numbered(2000)
  await appendFile(path('one', 'log'), asLog(texts.slice(0, 1)))
  await until('a try of the first line', () => attempts.length > 0)
  await appendFile(path('one', 'log'), asLog(texts.slice(1, 200)))
  for (let at = 200; at < texts.length; at += 200) {
    await appendFile(path('one', 'log'), asLog(texts.slice(at, at + 200)))
    await sleep(2)
  }
  await until('a few tries', () => attempts.length > 8)
  const [state] = await manager.states('one')
  assert.equal(state!.status, 'retrying')
  assert.equal(state!.message, 'out of order')
  assert.ok(state!.failingSince)
  assert.equal(manager.protectedGeneration('one'), 0)
  assert.deepEqual([...new Set(attempts.filter(attempt => attempt.startsWith('0-')))], ['0-0'], 'the first batch was not the same each time')
  isDown = false
  await until('all of it', () => to.taken.length >= texts.length)
  await until('the news of it', async () => (await manager.states('one'))[0]!.status === 'shipping')
  one.become('complete')
  manager.wake('one')
  await until('the end', () => done.length === 1)
  assert.deepEqual(to.texts(), texts)
  assert.ok(to.mostHeldBytes <= 3 * 4000)
})

test('with slow answers as many batches are under way as the destination allows, in order', async t => {
  const { manager, destination, task, path, done } = await build(t)
  const to = destination('a', { batchEntries: 5, batchesInFlight: 4 })
  to.after = () => sleep(5)
  const one = (await task('one', [webhook('a')])).become('complete')
  await writeFile(path('one', 'log'), asLog(numbered(200)))
  manager.begin(one)
  await until('the end', () => done.length === 1)
  assert.equal(to.mostWriting, 4)
  assert.equal(to.taken.length, 200)
  assert.deepEqual(to.texts(), numbered(200))
})

test('a batch is confirmed only when all before it are', async t => {
  const { manager, destination, task, path, done } = await build(t)
  const to = destination('a', { batchEntries: 2, batchesInFlight: 3 })
  let isFirst = true
  to.after = async batch => {
    if (!isFirst || batch[0]!.seq !== 0) return
    await sleep(30)
    isFirst = false
    throw new Error('the first one is lost')
  }
  const one = (await task('one', [webhook('a')])).become('complete')
  await writeFile(path('one', 'log'), asLog(numbered(12)))
  manager.begin(one)
  await until('the end', () => done.length === 1)
  assert.deepEqual(to.texts(), numbered(12))
  assert.deepEqual(to.openedWith.slice(0, 2), [undefined, undefined])
})

test('a refusal gives the output up for good; the other output of the task goes its own way', async t => {
  const { manager, newManager, destination, task, path, done } = await build(t)
  const refusing = destination('a')
  const slow = destination('b')
  refusing.before = () => { throw new SinkRefusal('never') }
  let isDown = true
  slow.before = () => { if (isDown) throw new SinkBusy('later', 1) }
  const one = (await task('one', [webhook('a'), webhook('b')])).become('running')
  await writeFile(path('one', 'log'), asLog(numbered(5)))
  manager.begin(one)
  await until('the refusal', async () => (await manager.states('one'))[0]!.status === 'given_up')
  assert.equal((await manager.states('one'))[0]!.message, 'never')
  await until('the other to be tried', async () => (await manager.states('one'))[1]!.status === 'retrying')
  isDown = false
  await until('the other', () => slow.taken.length === 5)
  one.become('failed')
  manager.wake('one')
  await until('the end', () => done.length === 1)
  assert.deepEqual((await manager.states('one')).map(({ status }) => status), ['given_up', 'complete'])
  one.become('pending').become('running').become('complete')
  newManager().begin(one)
  await until('the second end', () => done.length === 2)
  assert.equal(slow.statuses.length, 5)
  assert.equal(refusing.openedWith.length, 1)
})

test('of many tasks with one broken destination few try at a time, and all come through', async t => {
  const { manager, destination, task, path, done } = await build(t, { times: { backoff: { firstMs: 20, mostMs: 40 } } })
  const to = destination('a')
  let isDown = true
  to.limits = { ...to.limits, batchEntries: 100 }
  let tries = 0
  let trying = 0
  let mostTrying = 0
  to.before = async () => {
    tries++
    mostTrying = Math.max(mostTrying, ++trying)
    await sleep(1)
    trying--
    if (isDown) throw new Error('down')
  }
  for (let at = 0; at < 200; at++) {
    const one = (await task(`t${at}`, [webhook('a')])).become('complete')
    await writeFile(path(one.id, 'log'), line(one.id))
    manager.begin(one)
  }
  await until('the first tries', () => tries >= 16)
  await sleep(20)
  const before = tries
  mostTrying = 0
  await sleep(200)
  assert.ok(mostTrying <= 1, `${mostTrying} at once while it fails`)
  assert.ok(tries - before < 60, `${tries - before} tries in 200 ms`)
  assert.ok(to.open <= 16, `${to.open} sinks are open`)
  isDown = false
  await until('all', () => done.length === 200)
  assert.ok(mostTrying <= 32)
  assert.equal(new Set(to.taken.map(({ data }) => data.toString())).size, 200)
})

test('a line of 10 MB and binary output come through byte for byte', async t => {
  const { manager, destination, task, path, done } = await build(t)
  const to = destination('a', { batchBytes: 1024 * 1024, entryBytes: 64 * 1024, batchEntries: 100 })
  const long = Buffer.alloc(10 * 1024 * 1024, Buffer.from('0123456789\u00e9\u20ac'))
  const binary = Buffer.from(Array.from({ length: 2048 }, (_, at) => at % 256).filter(byte => byte !== 0x0a))
  const one = (await task('one', [webhook('a')])).become('complete')
  const chunks = Array.from({ length: Math.ceil(long.length / 8192) }, (_, at) => line(long.subarray(at * 8192, (at + 1) * 8192), 'stdout', 'P'))
  await writeFile(path('one', 'log'), Buffer.concat([...chunks, line(''), line(binary, 'stderr')]))
  manager.begin(one)
  await until('the end', () => done.length === 1)
  const all = to.unique()
  assert.ok(Buffer.concat(all.filter(({ stream }) => stream === 'stdout').map(({ data }) => data)).equals(long))
  assert.deepEqual(all.at(-1)!.data, binary)
  assert.equal(all.filter(({ isLineEnd }) => isLineEnd).length, 2)
})

test('a line without end is given out in pieces while it grows byte by byte', () => {
  const pair = newOutputPair({ entryBytes: 1000, place: startPlace() })
  let given = 0
  for (let offset = 1; offset < 50_000; offset++) {
    for (const { entry } of pair.push({ type: 'line', cursor: `0:${offset}`, at: 'now', stream: 'stdout', text: 'x', partial: true })) given += entry.data.length
    assert.ok(offset - given <= 1000)
  }
})

test('what is forgotten stops at once, and leaves nothing behind', async t => {
  const { manager, destination, task, path, done } = await build(t)
  const to = destination('a')
  to.before = batch => { if (batch.length > 0) throw new Error('down') }
  const one = (await task('one', [webhook('a')])).become('running')
  await writeFile(path('one', 'log'), asLog(numbered(5)))
  manager.begin(one)
  await until('a try', () => to.tries > 0)
  await manager.forget('one')
  await rm(path('one'), { recursive: true })
  await sleep(30)
  await assert.rejects(stat(path('one')))
  assert.equal(manager.size, 0)
  assert.deepEqual(done, [])
  assert.deepEqual(await manager.states('one'), [])
})
