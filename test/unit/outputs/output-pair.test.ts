import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import fc from 'fast-check'
import type { LogStream } from '../../../src/schemas/log.ts'
import { LogReader } from '../../../src/services/logs/log-reader.ts'
import { newOutputPair, type PlacedEntry } from '../../../src/services/outputs/output-pair.ts'
import { startPlace, type OutputPlace } from '../../../src/services/outputs/output-place.ts'
import type { OutputEntry } from '../../../src/services/outputs/output-sink.ts'

interface Written {
  stream: LogStream
  bytes: Uint8Array
  partial: boolean
}

const utf8 = new TextDecoder('utf-8', { fatal: true })

/** Bytes that make, and break, characters of two to four bytes. */
const someBytes = fc.array(fc.constantFrom(0x61, 0x0d, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0xa6, 0x80, 0xff, 0x00), { maxLength: 7 }).map(bytes => Uint8Array.from(bytes))
const someText = fc.string({ unit: fc.constantFrom('a', 'é', '€', '🦀', '\r'), maxLength: 5 }).map(text => new TextEncoder().encode(text))
const written: fc.Arbitrary<Written> = fc.record({ stream: fc.constantFrom<LogStream>('stdout', 'stderr'), bytes: fc.oneof(someBytes, someText), partial: fc.boolean() })
const files = fc.array(fc.array(written, { maxLength: 8 }), { minLength: 1, maxLength: 4 })

function fileOf (records: readonly Written[]): Buffer {
  return Buffer.concat(records.map(({ stream, bytes, partial }, second) =>
    Buffer.concat([Buffer.from(`2026-11-22T13:30:${String(second).padStart(2, '0')}Z ${stream} ${partial ? 'P' : 'F'} `), bytes, Buffer.from('\n')])))
}

async function build (t: TestContext) {
  const root = await mkdtemp(join(tmpdir(), 'berth-pair-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  const logs = new LogReader()
  let count = 0
  return {
    /** Makes a log of which the last file is `log`. */
    log: async (contents: readonly Buffer[]) => {
      const dir = join(root, String(count++))
      await mkdir(dir)
      for (const [index, content] of contents.entries()) await writeFile(join(dir, index === contents.length - 1 ? 'log' : `log.${index}`), content)
      return dir
    },
    entries: async (dir: string, entryBytes: number, place: OutputPlace, isEnded = true): Promise<PlacedEntry[]> => {
      const pair = newOutputPair({ entryBytes, place })
      const all: PlacedEntry[] = []
      for await (const records of logs.readBatches({ dir, cursor: pair.readFrom, signal: new AbortController().signal, isEnded: () => isEnded })) {
        for (const record of records) all.push(...pair.push(record))
      }
      return isEnded ? [...all, ...pair.end()] : all
    },
  }
}

/** What a stream says, told in another way: the lines of each file of the log, and whether each came to its end. */
function linesOf (contents: readonly (readonly Written[])[], stream: LogStream): { bytes: Buffer, isLineEnd: boolean }[] {
  return contents.flatMap(records => {
    const lines: { bytes: Buffer, isLineEnd: boolean }[] = []
    let open = Buffer.alloc(0)
    for (const record of records.filter(one => one.stream === stream)) {
      open = Buffer.concat([open, record.bytes])
      if (record.partial) continue
      lines.push({ bytes: open, isLineEnd: true })
      open = Buffer.alloc(0)
    }
    return open.length > 0 ? [...lines, { bytes: open, isLineEnd: false }] : lines
  })
}

function isText (bytes: Uint8Array): boolean {
  try {
    utf8.decode(bytes)
    return true
  } catch {
    return false
  }
}

/** Joins the pieces of a stream to lines again: `entryBytes` alone says where a piece goes on. */
function checkPieces (entries: readonly OutputEntry[], lines: readonly { bytes: Buffer, isLineEnd: boolean }[], entryBytes: number): void {
  const pieces = [...entries]
  for (const { bytes, isLineEnd } of lines) {
    const joined: OutputEntry[] = []
    let length = 0
    do {
      const piece = pieces.shift()
      assert.ok(piece, 'an entry is missing')
      joined.push(piece)
      length += piece.data.length
    } while (length < bytes.length)
    assert.deepEqual(Buffer.concat(joined.map(({ data }) => data)), bytes)
    assert.deepEqual(joined.map(piece => piece.isLineEnd), joined.map((_piece, at) => isLineEnd && at === joined.length - 1))
    for (const { data } of joined) assert.ok(data.length <= entryBytes)
    for (const { data } of joined.slice(0, -1)) assert.ok(data.length > entryBytes - 4, 'a piece is shorter than it must be')
    if (isText(bytes)) for (const { data } of joined) assert.ok(isText(data), 'a character was cut in two')
  }
  assert.deepEqual(pieces, [])
}

test('entries are the lines of each stream, long ones in pieces, and numbered without a hole', async t => {
  const { log, entries } = await build(t)
  await fc.assert(fc.asyncProperty(files, fc.integer({ min: 4, max: 12 }), async (contents, entryBytes) => {
    const all = (await entries(await log(contents.map(fileOf)), entryBytes, startPlace())).map(({ entry }) => entry)
    assert.deepEqual(all.map(({ seq }) => seq), all.map((_entry, at) => at))
    for (const stream of ['stdout', 'stderr'] as const) checkPieces(all.filter(entry => entry.stream === stream), linesOf(contents, stream), entryBytes)
  }), { numRuns: 150 })
})

test('whatever entry is the last that was delivered, going on gives exactly the others', async t => {
  const { log, entries } = await build(t)
  await fc.assert(fc.asyncProperty(files, fc.integer({ min: 4, max: 12 }), async (contents, entryBytes) => {
    const dir = await log(contents.map(fileOf))
    const all = await entries(dir, entryBytes, startPlace())
    for (const [at, { place }] of all.entries()) assert.deepEqual(await entries(dir, entryBytes, place), all.slice(at + 1))
  }), { numRuns: 60 })
})

test('a log that ended and goes on gives the same entries as one that never ended, interrupted anywhere', async t => {
  const { log, entries } = await build(t)
  await fc.assert(fc.asyncProperty(files, fc.integer({ min: 4, max: 12 }), fc.nat(), fc.boolean(), async (contents, entryBytes, seed, isEnded) => {
    const all = await entries(await log(contents.map(fileOf)), entryBytes, startPlace())
    const got: PlacedEntry[] = []
    for (let count = 1; count <= contents.length; count++) {
      const dir = await log(contents.slice(0, count).map(fileOf))
      const more = await entries(dir, entryBytes, got.at(-1)?.place ?? startPlace(), isEnded || count === contents.length)
      got.push(...more.slice(0, count === contents.length ? undefined : seed % (more.length + 1)))
    }
    assert.deepEqual(got, all)
  }), { numRuns: 150 })
})

test('a file that grows by any bytes gives the same entries as a whole one', async t => {
  const { log, entries } = await build(t)
  await fc.assert(fc.asyncProperty(fc.array(written, { maxLength: 12 }), fc.array(fc.nat(), { maxLength: 5 }), async (records, cuts) => {
    const content = fileOf(records)
    const all = await entries(await log([content]), 6, startPlace())
    const got: PlacedEntry[] = []
    for (const end of [...cuts.map(cut => cut % (content.length + 1)).sort((a, b) => a - b), content.length]) {
      const dir = await log([content.subarray(0, end)])
      got.push(...await entries(dir, 6, got.at(-1)?.place ?? startPlace(), false))
    }
    got.push(...await entries(await log([content]), 6, got.at(-1)?.place ?? startPlace()))
    assert.deepEqual(got, all)
  }), { numRuns: 60 })
})

test('CR, CRLF, blank lines and NUL are kept, and a line without an end says so', async t => {
  const { log, entries } = await build(t)
  const line = (text: string, partial = false): Written => ({ stream: 'stdout', bytes: Buffer.from(text), partial })
  const all = await entries(await log([fileOf([line('10%\r20%\rdone'), line('dos\r'), line(''), line('\0'), line('prompt> ', true)])]), 1024, startPlace())
  assert.deepEqual(all.map(({ entry }) => [entry.data.toString(), entry.isLineEnd]), [['10%\r20%\rdone', true], ['dos\r', true], ['', true], ['\0', true], ['prompt> ', false]])
})

test('a gap is an entry, cuts lines that are unfinished, and comes once', async t => {
  const { log, entries } = await build(t)
  const half = fileOf([{ stream: 'stdout', bytes: Buffer.from('half'), partial: true }])
  const rest = fileOf([{ stream: 'stdout', bytes: Buffer.from('more'), partial: false }])
  const dir = await log([Buffer.concat([half, Buffer.from('no head\n'), rest])])
  const all = await entries(dir, 1024, startPlace())
  assert.deepEqual(all.map(({ entry }) => [entry.seq, entry.isGap ?? false, entry.isLineEnd]), [[0, false, false], [1, true, true], [2, false, true]])
  assert.match(all[1]!.entry.data.toString(), /damaged.*\(8 bytes\)/)
  for (const [at, { place }] of all.entries()) assert.deepEqual(await entries(dir, 1024, place), all.slice(at + 1))
})

test('output that was removed before it was delivered is one gap; a log that is shorter than what was delivered is none', async t => {
  const { log, entries } = await build(t)
  const line = (text: string) => fileOf([{ stream: 'stdout', bytes: Buffer.from(text), partial: false }])
  const dir = await log([line('one'), line('two'), line('three')])
  const [first] = await entries(dir, 64, startPlace())
  await rm(join(dir, 'log.0'))
  await rm(join(dir, 'log.1'))
  // The newest rotated file carries the count of generations.
  await writeFile(join(dir, 'log.1'), line('two'))
  const rest = await entries(dir, 64, first!.place)
  assert.deepEqual(rest.map(({ entry }) => [entry.seq, entry.isGap ?? false, entry.isGap ? '' : entry.data.toString()]), [[1, true, ''], [2, false, 'two'], [3, false, 'three']])
  await writeFile(join(dir, 'log'), '')
  assert.deepEqual(await entries(dir, 64, rest.at(-1)!.place), [])
})
