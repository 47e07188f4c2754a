/** Whatever a process writes and however its log is read: the same bytes. */
import assert from 'node:assert/strict'
import { appendFile, rename, rm } from 'node:fs/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import type { LogRecord, LogStream } from '../../../src/schemas/log.ts'
import { recordBytes } from '../../../src/services/logs/log-bytes.ts'
import { createTextFormatter } from '../../../src/services/logs/log-format.ts'
import { toLogFrames } from '../../../src/services/logs/log-frames.ts'
import { collectLog } from '../../../src/services/logs/log-output.ts'
import { anyPieceBytes, anyWrites, criFiles, criLines, output, outputOf, writeFiles, type Write } from './cri-writer.ts'
import { build } from './log-fixture.ts'

const anyStream = fc.constantFrom<LogStream | undefined>(undefined, 'stdout', 'stderr')

/** The files of one log in a directory of the fixture, gone again before the next round. */
async function inFiles<T> (dir: string, files: readonly Buffer[], work: () => Promise<T>): Promise<T> {
  await writeFiles(dir, files)
  try {
    return await work()
  } finally {
    for (const generation of files.keys()) await rm(`${dir}/log.${generation}`, { force: true })
    await rm(`${dir}/log`, { force: true })
  }
}

test('all records together are what was written', async t => {
  const { dir, read } = await build(t)
  await fc.assert(fc.asyncProperty(anyWrites, anyPieceBytes, anyStream, fc.boolean(), async (writes, pieceBytes, stream, follow) => {
    await inFiles(dir, criFiles(writes, pieceBytes), async () => {
      const records = await read({ stream, follow })
      assert.deepEqual(outputOf(records), output(writes, stream))
      for (const record of records) if (record.type === 'line' && record.encoding === undefined) assert.ok(record.text.isWellFormed() && !record.text.includes('\n'))
    })
  }), { numRuns: 150 })
})

test('reading on from the cursor of any record gives the remaining bytes, whatever was read before', async t => {
  const { dir, reader, options } = await build(t)
  const anyStops = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 8 })
  await fc.assert(fc.asyncProperty(anyWrites, anyPieceBytes, anyStream, anyStops, fc.boolean(), async (writes, pieceBytes, stream, stops, follow) => {
    await inFiles(dir, criFiles(writes, pieceBytes), async () => {
      const records: LogRecord[] = []
      for (let pass = 0, isOver = false; !isOver; pass++) {
        const stop = stops[pass % stops.length]!
        let seen = 0
        isOver = true
        for await (const record of reader.read(options({ cursor: records.at(-1)?.cursor, stream, follow }))) {
          records.push(record)
          isOver = false
          if (++seen === stop) break
        }
      }
      assert.deepEqual(outputOf(records), output(writes, stream))
    })
  }), { numRuns: 150 })
})

test('a cursor holds for the other streams too', async t => {
  const { dir, read } = await build(t)
  await fc.assert(fc.asyncProperty(anyWrites, anyPieceBytes, anyStream, anyStream, fc.nat(), async (writes, pieceBytes, first, second, at) => {
    await inFiles(dir, criFiles(writes, pieceBytes), async () => {
      const records = await read({ stream: first })
      if (records.length === 0) return
      const { cursor } = records[at % records.length]!
      const all = await read()
      const place = placeOf(cursor)
      // What was given out at the end by one reading is left to the others.
      if (cursor.endsWith(':-')) return
      const before = all.filter(record => isBefore(placeOf(record.cursor), place) && !record.cursor.endsWith(':-'))
      const rest = outputOf(await read({ cursor, stream: second }))
      const whole = output(writes, second)
      for (const stream of ['stdout', 'stderr'] as const) {
        if (second === undefined || second === stream) assert.equal(outputOf(before)[stream] + rest[stream], whole[stream])
      }
    })
  }), { numRuns: 100 })
})

test('cursors without what is held back still work by looking back', async t => {
  const { dir, read } = await build(t)
  await fc.assert(fc.asyncProperty(anyWrites, anyPieceBytes, anyStream, async (writes, pieceBytes, stream) => {
    await inFiles(dir, criFiles(writes, pieceBytes), async () => {
      const records = await read({ stream })
      for (const [index, { cursor }] of records.entries()) {
        if (cursor.endsWith(':-')) break
        const [generation, offset] = cursor.split(':')
        assert.deepEqual(await read({ cursor: `${generation}:${offset}`, stream }), records.slice(index + 1), cursor)
      }
    })
  }), { numRuns: 50 })
})

test('any tail is the end of what was written', async t => {
  const { dir, read } = await build(t)
  await fc.assert(fc.asyncProperty(anyWrites, anyPieceBytes, anyStream, fc.nat(12), fc.boolean(), async (writes, pieceBytes, stream, tail, follow) => {
    await inFiles(dir, criFiles(writes, pieceBytes), async () => {
      const given = outputOf(await read({ stream, tail, follow }))
      const whole = output(writes, stream)
      for (const one of ['stdout', 'stderr'] as const) assert.ok(whole[one].endsWith(given[one]))
      if (tail === 0) assert.deepEqual(given, { stdout: '', stderr: '' })
    })
  }), { numRuns: 100 })
})

test('followers of a growing log that is rotated get what is written, alone or together, in any pieces', async t => {
  const { dir, reader, options, path } = await build(t)
  await fc.assert(fc.asyncProperty(anyWrites, anyPieceBytes, fc.array(fc.nat(40), { minLength: 1, maxLength: 10 }), async (writes, pieceBytes, cuts) => {
    let isOver = false
    const isEnded = () => isOver
    await appendFile(path(), '')
    const follow = async (stream?: LogStream) => {
      const records: LogRecord[] = []
      for await (const batch of reader.readBatches(options({ follow: true, isEnded, stream }))) records.push(...batch)
      return outputOf(records)
    }
    const followers = [follow(), follow(), follow('stderr'), follow('stderr')]
    let generation = 0
    let cut = 0
    for (const write of writes) {
      for (const line of criLines(write, pieceBytes)) {
        const half = cuts[cut++ % cuts.length]!
        await appendFile(path(), line.subarray(0, half))
        if (half % 3 === 0) reader.wake(dir)
        await appendFile(path(), line.subarray(half))
      }
      if (write.rotates) {
        await rename(path(), path(`log.${generation++}`))
        await appendFile(path(), '')
      }
    }
    isOver = true
    reader.wake(dir)
    const [first, second, errors, others] = await Promise.all(followers)
    assert.deepEqual(first, output(writes))
    assert.deepEqual(second, output(writes))
    assert.deepEqual(errors, output(writes, 'stderr'))
    assert.deepEqual(others, output(writes, 'stderr'))
    for (let old = 0; old < generation; old++) await rm(path(`log.${old}`))
    await rm(path())
  }), { numRuns: 40 })
})

test('frames hold the same bytes, and their cursors go on behind them', async t => {
  const { dir, read } = await build(t)
  await fc.assert(fc.asyncProperty(anyWrites, anyPieceBytes, fc.nat(), async (writes, pieceBytes, at) => {
    await inFiles(dir, criFiles(writes, pieceBytes), async () => {
      const records = await read()
      const frames = toLogFrames(records)
      const bytesOf = (count: number, stream: LogStream) => Buffer.concat(frames.slice(0, count).flatMap(frame => frame.type === 'output' && frame.stream === stream ? [Buffer.from(frame.data, frame.encoding ?? 'utf8')] : [])).toString('hex')
      assert.deepEqual({ stdout: bytesOf(frames.length, 'stdout'), stderr: bytesOf(frames.length, 'stderr') }, output(writes))
      if (frames.length === 0) return
      const index = at % frames.length
      const rest = outputOf(await read({ cursor: frames[index]!.cursor }))
      for (const stream of ['stdout', 'stderr'] as const) assert.equal(bytesOf(index + 1, stream) + rest[stream], output(writes)[stream])
    })
  }), { numRuns: 100 })
})

test('a text answer, and the collected output, are the bytes themselves', async t => {
  const { dir, read } = await build(t)
  await fc.assert(fc.asyncProperty(anyWrites, anyPieceBytes, anyStream, async (writes, pieceBytes, stream) => {
    await inFiles(dir, criFiles(writes, pieceBytes), async () => {
      const toText = createTextFormatter()
      const pieces = (await read({ stream })).map(record => Buffer.from(toText(record) as string))
      if (stream !== undefined) assert.equal(Buffer.concat(pieces).toString('hex'), output(writes)[stream])
      const collected = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
      await collectLog(dir, (one, bytes) => collected[one].push(bytes))
      assert.equal(Buffer.concat(collected.stdout).toString('hex'), output(writes).stdout)
      assert.equal(Buffer.concat(collected.stderr).toString('hex'), output(writes).stderr)
    })
  }), { numRuns: 100 })
})

test('a line of 10 MB of characters in pieces of 8 KiB is whole', async t => {
  const { dir, read } = await build(t)
  const bytes = Buffer.concat([Buffer.from('🦀'.repeat(2_621_440)), Buffer.from([0xff]), Buffer.from('€\r\n')])
  const writes: Write[] = Array.from({ length: Math.ceil(bytes.length / 8192) }, (_, index) => ({ stream: 'stdout', bytes: bytes.subarray(index * 8192, (index + 1) * 8192), rotates: index % 500 === 499 }))
  // A read of conmon breaks off in a character where its pieces are of another size.
  for (const pieceBytes of [8192, 8191]) {
    await inFiles(dir, criFiles(writes, pieceBytes), async () => {
      const records = await read()
      const whole = Buffer.concat(records.map(record => record.type === 'line' ? recordBytes(record) : Buffer.alloc(0)))
      assert.ok(whole.equals(bytes))
      const { cursor } = records[700]!
      const rest = Buffer.concat((await read({ cursor })).map(record => record.type === 'line' ? recordBytes(record) : Buffer.alloc(0)))
      assert.ok(rest.equals(bytes.subarray(bytes.length - rest.length)))
      assert.equal(records.filter(record => record.type === 'line' && record.encoding !== undefined).length, 1)
    })
  }
})

function placeOf (cursor: string): [number, number] {
  const [generation, offset] = cursor.split(':').map(Number)
  return [generation!, offset!]
}

function isBefore (a: [number, number], b: [number, number]): boolean {
  return a[0] < b[0] || (a[0] === b[0] && a[1] <= b[1])
}
