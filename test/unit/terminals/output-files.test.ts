import assert from 'node:assert/strict'
import { chmod, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { OutputReader } from '../../../src/services/terminals/output-reader.ts'
import { screenPath } from '../../../src/services/terminals/server/output-segments.ts'
import { OutputWriter } from '../../../src/services/terminals/server/output-writer.ts'

async function build (t: TestContext, windowBytes: number) {
  const dir = await mkdtemp(join(tmpdir(), 'berth-output-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const failures: unknown[] = []
  const writer = new OutputWriter({ dir, windowBytes, onFailed: error => failures.push(error) })
  t.after(() => writer.close())
  return { dir, writer, failures, reader: new OutputReader(dir) }
}

const numbered = (from: number, count: number) => Buffer.from(Array.from({ length: count }, (_, index) => (from + index) % 251))

test('output is read back from any offset, as far as it is kept', async t => {
  const { dir, writer, reader } = await build(t, 400)
  assert.equal(await reader.oldest(), 0)
  assert.equal(await reader.endOffset(), 0)
  assert.equal(await reader.read(0, Buffer.alloc(10)), undefined)
  for (let offset = 0; offset < 1530; offset += 51) writer.append(numbered(offset, 51))
  assert.equal(writer.offset, 1530)
  assert.deepEqual((await readdir(dir)).sort(), [1100, 1200, 1300, 1400, 1500].map(offset => `output.${String(offset).padStart(16, '0')}`))
  assert.equal(await reader.oldest(), 1100)
  assert.equal(await reader.endOffset(), 1530)
  assert.deepEqual(await reader.read(3, Buffer.alloc(10)), { kind: 'gap', offset: 1100, bytes: 1097 })
  assert.deepEqual(await reader.read(1250, Buffer.alloc(1000)), { kind: 'bytes', offset: 1250, bytes: numbered(1250, 50) })
  assert.deepEqual(await reader.read(1300, Buffer.alloc(7)), { kind: 'bytes', offset: 1300, bytes: numbered(1300, 7) })
  assert.equal(await reader.read(1530, Buffer.alloc(7)), undefined)
  assert.equal(await reader.read(9999, Buffer.alloc(7)), undefined)
})

test('a reader keeps up with files that are removed while it reads', async t => {
  const { writer, reader } = await build(t, 4000)
  let next = 0
  let missed = 0
  for (let round = 0; round < 300; round++) {
    const reading = reader.read(next, Buffer.alloc(500))
    writer.append(numbered(writer.offset, 700))
    const part = await reading
    if (part?.kind === 'bytes') assert.deepEqual(part.bytes, numbered(next, part.bytes.length))
    if (part?.kind === 'gap') missed += part.bytes
    next = part === undefined ? next : part.kind === 'gap' ? part.offset : next + part.bytes.length
  }
  assert.ok(missed > 0 && next > 100_000, `${missed} missed of ${next}`)
})

test('what cannot be written is a gap, told once, and what comes later is there', async t => {
  const { dir, writer, reader, failures } = await build(t, 400)
  writer.append(numbered(0, 130))
  // Its directory is gone for a while, as is one with a file that bears its name.
  await rename(dir, `${dir}.away`)
  t.after(() => rm(`${dir}.away`, { recursive: true, force: true }))
  await writeFile(dir, '')
  writer.append(numbered(130, 100))
  writer.append(numbered(230, 100))
  assert.equal(failures.length, 1)
  assert.equal(writer.offset, 330)
  await rm(dir)
  await rename(`${dir}.away`, dir)
  await new Promise(resolve => { setTimeout(resolve, 120) })
  writer.append(numbered(330, 20))
  assert.equal(failures.length, 1)
  assert.deepEqual(await reader.read(200, Buffer.alloc(100)), { kind: 'gap', offset: 330, bytes: 130 })
  assert.deepEqual(await reader.read(330, Buffer.alloc(100)), { kind: 'bytes', offset: 330, bytes: numbered(330, 20) })
})

test('the end bounds what a reader waits for, and screens are found by their offsets', async t => {
  const { dir, writer, reader } = await build(t, 400)
  writer.append(numbered(0, 50))
  assert.equal(await reader.read(50, Buffer.alloc(10)), undefined)
  assert.equal(await reader.end(), undefined)
  await writeFile(join(dir, 'end.json'), JSON.stringify({ at: '2026-01-01T00:00:00.000Z', offset: 80, exitCode: 0 }))
  assert.deepEqual(await reader.read(50, Buffer.alloc(10)), { kind: 'gap', offset: 80, bytes: 30 })
  assert.equal(await reader.read(80, Buffer.alloc(10)), undefined)
  const screen = { offset: 50, cols: 80, rows: 24, data: 'x' }
  await writeFile(screenPath(dir, 50), JSON.stringify(screen))
  await writeFile(screenPath(dir, 20), '{"broken"')
  await chmod(screenPath(dir, 50), 0o600)
  assert.deepEqual(await reader.screenAt(50), screen)
  assert.equal(await reader.screenAt(20), undefined)
  assert.deepEqual(await reader.screenFrom(10), screen)
  assert.equal(await reader.screenFrom(51), undefined)
})
