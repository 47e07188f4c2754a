import assert from 'node:assert/strict'
import { appendFile, open, readdir, rename, writeFile, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { LogRecord } from '../../../src/schemas/log.ts'
import type { LogReader, LogReadOptions } from '../../../src/services/logs/log-reader.ts'
import { LogRotator } from '../../../src/services/logs/log-rotator.ts'
import { brief, build, collect, line } from './log-fixture.ts'

/** Writes like conmon: keeps its file open across renames; reopening replaces `log` by an empty file. */
class FakeConmon {
  readonly #dir: string
  #handle: FileHandle
  reopened = 0

  constructor (dir: string, handle: FileHandle) {
    this.#dir = dir
    this.#handle = handle
  }

  static async start (dir: string): Promise<FakeConmon> {
    return new FakeConmon(dir, await open(join(dir, 'log'), 'a'))
  }

  write = async (text: string): Promise<void> => { await this.#handle.write(text) }

  reopen = async (): Promise<void> => {
    this.reopened++
    await this.#handle.close()
    this.#handle = await open(join(this.#dir, 'log.tmp'), 'w')
    await rename(join(this.#dir, 'log.tmp'), join(this.#dir, 'log'))
  }

  stop = (): Promise<void> => this.#handle.close()
}

test('a log that is too large is renamed, reopened and the oldest are deleted', async t => {
  const { dir, read } = await build(t)
  const conmon = await FakeConmon.start(dir)
  const rotator = new LogRotator({ maxLogBytes: 10, keepBytes: 3 * line('n0').length })
  assert.equal(await rotator.check(dir, conmon.reopen), 'idle')
  for (let index = 0; index < 6; index++) {
    await conmon.write(line(`n${index}`))
    assert.equal(await rotator.check(dir, conmon.reopen), 'rotated')
  }
  assert.equal(await rotator.check(dir, conmon.reopen), 'idle')
  assert.deepEqual((await readdir(dir)).sort(), ['log', 'log.3', 'log.4', 'log.5', 'log.removed'])
  assert.deepEqual(brief(await read()), ['gap', 'o:n3', 'o:n4', 'o:n5'])
  assert.equal(conmon.reopened, 6)
  await conmon.stop()
})

test('one rotated file is kept whatever the settings, so that generations go on counting', async t => {
  const { dir } = await build(t)
  const conmon = await FakeConmon.start(dir)
  const rotator = new LogRotator({ maxLogBytes: 0, keepBytes: 0 })
  for (let index = 0; index < 3; index++) {
    await conmon.write(line('x'))
    await rotator.check(dir, conmon.reopen)
  }
  assert.deepEqual((await readdir(dir)).sort(), ['log', 'log.2', 'log.removed'])
  await conmon.stop()
})

test('a crash between the rename and the reopening is recovered from', async t => {
  const { dir, path, read } = await build(t)
  const conmon = await FakeConmon.start(dir)
  await conmon.write(line('a'))
  await rename(path('log'), path('log.0'))
  await conmon.write(line('b'))
  assert.deepEqual(brief(await read({ isEnded: () => false })), ['o:a', 'o:b'])
  const rotator = new LogRotator({ maxLogBytes: 1000, settleMs: 0 })
  assert.equal(await rotator.check(dir, conmon.reopen), 'reopened')
  await conmon.write(line('c'))
  assert.equal(await rotator.check(dir, conmon.reopen), 'idle')
  assert.deepEqual(brief(await read()), ['o:a', 'o:b', 'o:c'])
  assert.equal(conmon.reopened, 1)
  await conmon.stop()
})

test('a reopening that an earlier daemon asked for is not asked for twice', async t => {
  const { dir, path, write } = await build(t)
  await write(line('a'), 'log.0')
  const rotator = new LogRotator({ maxLogBytes: 1000, settleMs: 60_000 })
  const check = rotator.check(dir, () => assert.fail('asked again'))
  await writeFile(path('log'), '')
  assert.equal(await check, 'idle')
})

test('conmon is asked once per rename, and again when asking failed', async t => {
  const { dir, write } = await build(t)
  await write(line('a'))
  const rotator = new LogRotator({ maxLogBytes: 1, settleMs: 0 })
  await assert.rejects(rotator.check(dir, () => Promise.reject(new Error('no reader'))), /no reader/)
  let asked = 0
  const slow = async () => { asked++ }
  assert.equal(await rotator.check(dir, slow), 'reopened')
  assert.equal(await rotator.check(dir, slow), 'waiting')
  assert.equal(asked, 1)
  rotator.forget(dir)
  assert.equal(await rotator.check(dir, slow), 'reopened')
})

test('checks of one log at the same time are one check', async t => {
  const { dir, write } = await build(t)
  await write(line('a'))
  const rotator = new LogRotator({ maxLogBytes: 1 })
  const reopen = () => writeFile(join(dir, 'log'), '')
  await Promise.all([1, 2, 3].map(() => rotator.check(dir, reopen)))
  assert.deepEqual((await readdir(dir)).sort(), ['log', 'log.0'])
})

test('a log that conmon has not begun is left alone', async t => {
  const { dir } = await build(t)
  assert.equal(await new LogRotator({ maxLogBytes: 1 }).check(dir, () => assert.fail('asked')), 'idle')
})

test('followers lose and repeat nothing across 20 rotations under a racing writer', async t => {
  const { dir, reader, options } = await build(t)
  const conmon = await FakeConmon.start(dir)
  const rotator = new LogRotator({ maxLogBytes: 0, keepBytes: 1e9 })
  const expected: string[] = []
  let ended = false
  const isEnded = () => ended
  const followers = Array.from({ length: 3 }, () => collect(reader.read(options({ follow: true, isEnded }))))
  const filtered = collect(reader.read(options({ follow: true, isEnded, stream: 'stderr' })))
  const resuming = followWithReconnects(reader, options({ follow: true, isEnded }), isEnded)
  const write = async () => {
    for (let index = 0; index < 2000 || conmon.reopened < 20; index++) {
      expected.push(String(index))
      await conmon.write(line(String(index), index % 7 ? 'stdout' : 'stderr', index % 5 ? 'F' : 'P'))
    }
  }
  const rotate = async () => {
    while (conmon.reopened < 20) {
      // Between rename and reopening the writer goes on writing to the renamed file.
      await rotator.check(dir, async () => {
        await setImmediate()
        await conmon.reopen()
      })
    }
  }
  // Writes and reopenings take turns on the file descriptor, as they do in conmon's single thread.
  conmon.write = serialized(conmon.write, conmon)
  await Promise.all([write(), rotate()])
  ended = true
  reader.wake(dir)
  for (const records of await Promise.all(followers)) assert.deepEqual(texts(records), expected)
  assert.deepEqual(texts(await filtered), expected.filter((_, index) => index % 7 === 0))
  assert.deepEqual(texts(await resuming), expected)
  assert.equal(conmon.reopened, 20)
  await conmon.stop()
})

test('a follower sees what is appended and ends when the writer has ended', async t => {
  const { dir, reader, options, path } = await build(t)
  let ended = false
  const records = reader.read(options({ follow: true, isEnded: () => ended }))[Symbol.asyncIterator]()
  const first = records.next()
  await writeFile(path(), line('a'))
  assert.deepEqual(brief([(await first).value]), ['o:a'])
  const second = records.next()
  await appendFile(path(), line('b').slice(0, 50))
  await appendFile(path(), line('b').slice(50))
  assert.deepEqual(brief([(await second).value]), ['o:b'])
  const last = records.next()
  ended = true
  reader.wake(dir)
  assert.equal((await last).done, true)
})

test('abort ends a waiting follower without an error, and a follower that is dropped leaves nothing', async t => {
  const { reader, options, write } = await build(t)
  await write(line('a'))
  const controller = new AbortController()
  const waiting = collect(reader.read(options({ follow: true, isEnded: () => false, signal: controller.signal })))
  const dropped = reader.read(options({ follow: true, isEnded: () => false }))[Symbol.asyncIterator]()
  assert.deepEqual(brief([(await dropped.next()).value]), ['o:a'])
  await dropped.return?.()
  controller.abort()
  const records = await waiting
  assert.ok(records.length <= 1)
  assert.deepEqual(await collect(reader.read(options({ follow: true, isEnded: () => false, signal: controller.signal }))), [])
})

test('followers of one directory share a watch', async t => {
  const { reader, options, write } = await build(t)
  await write(line('a'))
  const controller = new AbortController()
  const followers = [1, 2, 3].map(() => reader.read(options({ follow: true, isEnded: () => false, signal: controller.signal }))[Symbol.asyncIterator]())
  await Promise.all(followers.map(follower => follower.next()))
  assert.equal(reader.watchedCount, 1)
  controller.abort()
  await Promise.all(followers.map(follower => follower.next()))
  assert.equal(reader.watchedCount, 0)
})

test('tail and follow go on without a gap between them', async t => {
  const { dir, reader, options, write, path } = await build(t)
  await write(line('a') + line('b') + line('c'))
  let ended = false
  const records = reader.read(options({ follow: true, tail: 2, isEnded: () => ended }))[Symbol.asyncIterator]()
  assert.deepEqual(brief([(await records.next()).value, (await records.next()).value]), ['o:b', 'o:c'])
  await appendFile(path(), line('d'))
  assert.deepEqual(brief([(await records.next()).value]), ['o:d'])
  ended = true
  reader.wake(dir)
  assert.equal((await records.next()).done, true)
})

/** Follows, but drops the connection after every 37 records and resumes from the last cursor. */
async function followWithReconnects (reader: LogReader, options: LogReadOptions, isEnded: () => boolean): Promise<LogRecord[]> {
  const all: LogRecord[] = []
  for (;;) {
    const wasEnded = isEnded()
    const before = all.length
    for await (const record of reader.read({ ...options, cursor: all.at(-1)?.cursor })) {
      all.push(record)
      if (all.length - before === 37) break
    }
    if (wasEnded && all.length - before < 37) return all
  }
}

function texts (records: LogRecord[]): string[] {
  return records.map(record => record.type === 'line' ? record.text : 'gap')
}

/** Lets calls of write and reopen run one after the other. */
function serialized (write: (text: string) => Promise<void>, conmon: FakeConmon): (text: string) => Promise<void> {
  let last: Promise<void> = Promise.resolve()
  const reopen = conmon.reopen
  conmon.reopen = () => { last = last.then(reopen); return last }
  return text => { last = last.then(() => write(text)); return last }
}
