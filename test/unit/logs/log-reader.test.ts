import assert from 'node:assert/strict'
import { appendFile, rename, rm, truncate } from 'node:fs/promises'
import { test } from 'node:test'
import type { BerthError } from '../../../src/errors.ts'
import type { LogRecord } from '../../../src/schemas/log.ts'
import { brief, build, line, randomFrom } from './log-fixture.ts'

const crab = Buffer.from('🦀')

test('records carry stream, time, text and the cursor just behind them', async t => {
  const { write, read } = await build(t)
  await write(line('one') + line('tw', 'stderr', 'P') + line('o', 'stderr'))
  const records = await read()
  assert.deepEqual(brief(records), ['o:one', 'e:tw…', 'e:o'])
  const first = line('one').length
  assert.deepEqual(records[0], { type: 'line', cursor: `0:${first}`, at: '2026-11-22T13:30:19.628000000+00:00', stream: 'stdout', text: 'one', partial: false })
  assert.equal(records[1]!.cursor, `0:${first + line('tw', 'stderr', 'P').length}`)
})

test('a missing directory, a missing file and an empty file are an empty log', async t => {
  const { read, write, path } = await build(t)
  assert.deepEqual(await read({ dir: path('absent') }), [])
  assert.deepEqual(await read(), [])
  assert.deepEqual(await read({ tail: 5 }), [])
  await write('')
  assert.deepEqual(await read({ follow: true }), [])
  assert.deepEqual(await read({ tail: 0 }), [])
})

test('blank lines are lines, and texts keep their spaces', async t => {
  const { write, read } = await build(t)
  await write(line('') + line('  a  ') + line('', 'stderr', 'P'))
  assert.deepEqual(brief(await read()), ['o:', 'o:  a  ', 'e:…'])
})

test('wrong cursors and tails are refused before anything is read', async t => {
  const { reader, options } = await build(t)
  for (const cursor of ['', 'x', '1', '1:', ':1', '-1:0', '0:-1', '0:1 ', '0:1.5', '9'.repeat(16) + ':0', '0:0\0']) {
    assert.throws(() => reader.read(options({ cursor })), (error: BerthError) => error.code === 'invalid_cursor' && error.kind === 'invalid_argument', cursor)
  }
  for (const tail of [-1, 1.5, 100_001, NaN]) {
    assert.throws(() => reader.read(options({ tail })), (error: BerthError) => error.code === 'invalid_tail')
  }
})

test('a cursor behind the end or in a removed file yields a gap and goes on with the oldest there is', async t => {
  const { write, read } = await build(t)
  await write(line('a'), 'log.4')
  await write(line('b'))
  for (const cursor of ['2:10', '4:99999', '5:99999', '6:0', '900:1']) {
    const records = await read({ cursor })
    assert.deepEqual(brief(records), ['gap', 'o:a', 'o:b'], cursor)
    assert.equal(records[0]!.cursor, '4:0')
    assert.deepEqual(brief(await read({ cursor: records[0]!.cursor })), ['o:a', 'o:b'])
  }
  assert.deepEqual(brief(await read()), ['gap', 'o:a', 'o:b'], 'reading from the beginning says that it is gone')
  assert.deepEqual(brief(await read({ tail: 1 })), ['o:b'])
  assert.deepEqual(brief(await read({ tail: 3 })), ['gap', 'o:a', 'o:b'])
})

test('the place where the next file will begin is a good cursor', async t => {
  const { write, read } = await build(t)
  await write(line('a'), 'log.0')
  assert.deepEqual(await read({ cursor: '1:0' }), [])
  await write(line('b'))
  assert.deepEqual(brief(await read({ cursor: '1:0' })), ['o:b'])
})

test('a cursor inside a line skips that line with a gap', async t => {
  const { write, read } = await build(t)
  await write(line('abc') + line('def'))
  const records = await read({ cursor: '0:5' })
  assert.deepEqual(brief(records), ['gap', 'o:def'])
  assert.equal(damagedBytes(records[0]), line('abc').length - 5)
})

test('damaged lines become gaps and never throw', async t => {
  const { write, read } = await build(t)
  const damaged = ['\n', '\0\0\0\0\n', 'hello\n', '2026-11-22T13:30:19+00:00 stdin F x\n', '2026-11-22T13:30:19+00:00 stdout X x\n', 'x stdout F y\n', '2026-11-22T13:30:19+00:00 stdout F\n']
  for (const bytes of damaged) {
    await write(line('a') + bytes + line('b'))
    const records = await read()
    assert.deepEqual(brief(records), ['o:a', 'gap', 'o:b'], bytes)
    assert.equal(damagedBytes(records[1]), bytes.length)
  }
})

test('random bytes never throw, and every byte is accounted for', async t => {
  const { write, read } = await build(t)
  const random = randomFrom(7)
  const pieces = ['\n', '\0', ' ', line('ok'), line('part', 'stderr', 'P'), '2026-11-22T13:30:19.6+00:00', ' stdout F ', '\xff']
  for (let round = 0; round < 200; round++) {
    const content = Buffer.from(Array.from({ length: random(30) }, () => pieces[random(pieces.length)]!).join(''), 'latin1')
    await write(content)
    const records = await read()
    assert.equal(records.at(-1)?.cursor ?? '0:0', `0:${content.length}`)
    await read({ tail: random(10) })
  }
})

test('a torn last line is a record only once the writer has ended', async t => {
  const { write, read } = await build(t)
  await write(line('a') + line('torn').slice(0, -3))
  assert.deepEqual(brief(await read({ isEnded: () => false })), ['o:a'])
  assert.deepEqual(brief(await read({ isEnded: () => true })), ['o:a', 'o:to'])
  assert.deepEqual(brief(await read({ isEnded: () => true, tail: 1 })), ['o:to'])
  assert.deepEqual(brief(await read({ isEnded: () => false, tail: 1 })), ['o:a'])
})

test('a line that conmon cannot have written is skipped in bounded memory', async t => {
  const { write, read } = await build(t)
  const huge = line('x'.repeat(3 * 1024 * 1024))
  const large = line('y'.repeat(1024 * 1024 - 100))
  await write(line('a') + huge + large + line('b'))
  const records = await read()
  assert.deepEqual(records.map(record => record.type === 'gap' ? record.bytes : record.text.length), [1, huge.length, 1024 * 1024 - 100, 1])
  assert.equal((await read({ tail: 1 })).length, 1)
  assert.equal((await read({ tail: 2 })).length, 3, 'what is damaged between lines stays in its place')
  assert.equal((await read({ tail: 3 })).length, 4)
})

test('a line of 10 MB arrives as its partial records', async t => {
  const { write, read } = await build(t)
  const count = 1250
  await write(line('x'.repeat(8192), 'stdout', 'P').repeat(count) + line('end'))
  const records = await read()
  assert.equal(records.length, count + 1)
  assert.equal(records.reduce((sum, record) => sum + (record.type === 'line' ? record.text.length : 0), 0), count * 8192 + 3)
  assert.equal((await read({ tail: 1 })).length, count + 1)
})

test('bytes that are not UTF-8 are base64, line by line', async t => {
  const { write, read } = await build(t)
  const bytes = Buffer.from([0x61, 0xff, 0xfe])
  await write(Buffer.concat([Buffer.from(line('é') + line('').slice(0, -1)), bytes, Buffer.from('\n' + line('è'))]))
  const records = await read()
  assert.deepEqual(brief(records), ['o:é', `o:${bytes.toString('base64')}`, 'o:è'])
  assert.deepEqual(records.map(record => record.type === 'line' && record.encoding), [undefined, 'base64', undefined])
})

test('a character split between partial lines stays whole, whatever cursor is resumed from', async t => {
  const { write, read } = await build(t)
  const part = (bytes: Buffer, tag = 'P') => Buffer.concat([Buffer.from(line('', 'stdout', tag).slice(0, -1)), bytes, Buffer.from('\n')])
  await write(Buffer.concat([part(crab.subarray(0, 1)), part(crab.subarray(1, 3))]), 'log.0')
  await write(Buffer.concat([Buffer.from(line('é', 'stderr')), part(crab.subarray(3), 'F')]))
  const records = await read()
  assert.deepEqual(brief(records), ['o:…', 'o:…', 'e:é', 'o:🦀'])
  for (const [at, record] of records.entries()) {
    assert.deepEqual(await read({ cursor: record.cursor }), records.slice(at + 1))
  }
})

test('resuming from any cursor yields exactly the suffix, and tail equals the naive tail', async t => {
  const { write, read, path } = await build(t)
  const random = randomFrom(42)
  for (let round = 0; round < 12; round++) {
    const isEnded = () => round % 2 === 0
    const generations = 1 + random(3)
    for (let generation = 0; generation < generations; generation++) {
      const content = Buffer.concat(Array.from({ length: random(40) }, () => randomLine(random)))
      const isLast = generation === generations - 1
      const torn = isLast && random(2) === 0 ? content.subarray(0, Math.max(0, content.length - random(30))) : content
      await write(torn, isLast ? 'log' : `log.${generation}`)
    }
    for (const stream of [undefined, 'stdout', 'stderr'] as const) {
      const all = await read({ isEnded, stream })
      for (const [at, record] of all.entries()) {
        assert.deepEqual(await read({ cursor: record.cursor, isEnded, stream }), all.slice(at + 1))
      }
      for (const tail of [0, 1, 2, 3, 7, 20, 1000]) {
        assert.deepEqual(await read({ tail, isEnded, stream }), naiveTail(all, tail), `round ${round} tail ${tail} ${stream}`)
      }
    }
    for (let generation = 0; generation < generations; generation++) await rm(path(`log.${generation}`), { force: true })
  }
})

test('tail reads files that are larger than its blocks', async t => {
  const { write, read } = await build(t)
  const random = randomFrom(3)
  await write(Array.from({ length: 6000 }, (_, index) => line(`${index} ${'z'.repeat(random(300))}`, random(4) ? 'stdout' : 'stderr')).join(''))
  const all = await read()
  for (const tail of [0, 1, 499, 3000, 5999, 6000, 6001, 100_000]) assert.deepEqual(await read({ tail }), naiveTail(all, tail))
  const errors = await read({ stream: 'stderr' })
  for (const tail of [1, 300, errors.length]) assert.deepEqual(await read({ tail, stream: 'stderr' }), naiveTail(errors, tail))
})

test('tail finds lines that begin where its blocks do', async t => {
  const { write, read } = await build(t)
  const head = line('').length
  await write(Array.from({ length: 2048 }, (_, index) => line(String(index).padStart(128 - head))).join(''))
  const all = await read()
  for (const tail of [511, 512, 513, 1024, 2047, 2048]) assert.deepEqual(await read({ tail }), all.slice(-tail))
})

test('without follow, reading ends where the log ended when it began, however much is written meanwhile', async t => {
  const { write, options, reader, path } = await build(t)
  await write(line('a').repeat(1000))
  const all: LogRecord[] = []
  for await (const batch of reader.readBatches(options({ isEnded: () => false }))) {
    all.push(...batch)
    await appendFile(path(), line('b').repeat(1000))
  }
  assert.deepEqual(brief(all), Array.from({ length: 1000 }, () => 'o:a'))
})

test('tail 0 with follow yields only what comes, behind an unfinished line and other streams too', async t => {
  const { dir, write, options, reader, path } = await build(t)
  await write(line('a'), 'log.3')
  await write(line('b') + line('cd').slice(0, -2))
  let ended = false
  const begin = async (stream?: 'stderr') => {
    const hasBegun = Promise.withResolvers<void>()
    let asked = 0
    // Asked once before the place to begin at is found, and again behind it.
    const isEnded = () => {
      if (++asked === 2) hasBegun.resolve()
      return ended
    }
    const records = reader.read(options({ follow: true, tail: 0, stream, isEnded }))[Symbol.asyncIterator]()
    const next = records.next()
    await hasBegun.promise
    return { records, next }
  }
  const both = await begin()
  const errors = await begin('stderr')
  await appendFile(path(), 'd\n' + line('e', 'stderr'))
  assert.deepEqual(brief([(await both.next).value, (await both.records.next()).value, (await errors.next).value]), ['o:cd', 'e:e', 'e:e'])
  ended = true
  reader.wake(dir)
  assert.deepEqual([(await both.records.next()).done, (await errors.records.next()).done], [true, true])
})

test('a slow reader that meets a removed generation gets a gap', async t => {
  const { write, options, reader, path } = await build(t)
  await write(line('a'), 'log.0')
  await write(line('b'), 'log.1')
  await write(line('c'))
  const records = reader.read(options())[Symbol.asyncIterator]()
  assert.deepEqual(brief([(await records.next()).value]), ['o:a'])
  await rm(path('log.0'))
  await rm(path('log.1'))
  await rename(path('log'), path('log.2'))
  await write(line('d'))
  const rest: LogRecord[] = []
  for (let item = await records.next(); !item.done; item = await records.next()) rest.push(item.value)
  assert.deepEqual(brief(rest), ['gap', 'o:c'], 'reading ends where the log ended when it began')
})

test('truncation appears as a gap', async t => {
  const { write, options, reader, path } = await build(t)
  let ended = false
  await write(line('first and long'))
  const records = reader.read(options({ follow: true, isEnded: () => ended }))[Symbol.asyncIterator]()
  assert.deepEqual(brief([(await records.next()).value]), ['o:first and long'])
  await truncate(path(), 0)
  assert.deepEqual(brief([(await records.next()).value]), ['gap'])
  await appendFile(path(), line('x'))
  assert.deepEqual(brief([(await records.next()).value]), ['o:x'])
  ended = true
  assert.equal((await records.next()).done, true)
})

function damagedBytes (record: LogRecord | undefined): number | undefined {
  return record?.type === 'gap' ? record.bytes : undefined
}

function randomLine (random: (limit: number) => number): Buffer {
  const kind = random(20)
  if (kind === 0) return Buffer.from('damaged\n')
  const text = Buffer.concat(Array.from({ length: random(6) }, () => [Buffer.from('a'), crab, Buffer.from('é'), Buffer.from([0xe2, 0x82]), Buffer.from([0x80])][random(5)]!))
  const cut = text.subarray(0, random(text.length + 1))
  const head = line('', random(3) ? 'stdout' : 'stderr', random(2) ? 'F' : 'P').slice(0, -1)
  return Buffer.concat([Buffer.from(head), cut, Buffer.from('\n')])
}

/** The definition of tail: walk back to where the (n+1)-th last line ends; the rest is the tail. */
function naiveTail (all: LogRecord[], count: number): LogRecord[] {
  if (count === 0) return []
  // What is given out at the end because nothing completes it is no line of its own.
  const lines = all.findLastIndex(record => !record.cursor.endsWith(':-')) + 1
  return [...naiveTailOfLines(all.slice(0, lines), count), ...all.slice(lines)]
}

function naiveTailOfLines (records: LogRecord[], count: number): LogRecord[] {
  const seen = new Set<string>()
  let left = count
  for (let at = records.length - 1; at >= 0; at--) {
    const record = records[at]!
    if (record.type === 'gap') continue
    const endsLine = !record.partial || !seen.has(record.stream)
    seen.add(record.stream)
    if (endsLine && left-- === 0) return records.slice(at + 1)
  }
  return records
}
