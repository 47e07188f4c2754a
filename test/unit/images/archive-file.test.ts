import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { ArchiveFile, DecompressedCopies } from '../../../src/services/images/archive-file.ts'
import { tarOf } from '../../support/layout-writer.ts'
import { tempDir } from './temp-dir.ts'

test('a copy is written once for all who need it and goes with the last of them', async t => {
  const dir = join(tempDir(t), 'tmp')
  const copies = new DecompressedCopies({ dir })
  let writes = 0
  const write = async (path: string) => { writeFileSync(path, String(++writes)) }
  const users = await Promise.all([1, 2, 3].map(() => copies.acquire('x', write)))
  assert.equal(writes, 1)
  for (const { path, release } of users) {
    assert.equal(readFileSync(path, 'utf8'), '1')
    await release()
  }
  assert.deepEqual(readdirSync(dir), [])
  await (await copies.acquire('x', write)).release()
  assert.equal(writes, 2)
})

test('a copy that cannot be written fails all who wait, and is tried again by the next', async t => {
  const dir = join(tempDir(t), 'tmp')
  const copies = new DecompressedCopies({ dir })
  const fail = async (path: string) => { writeFileSync(path, 'half'); throw new RangeError('the disk is full') }
  const outcomes = await Promise.allSettled([1, 2].map(() => copies.acquire('x', fail)))
  assert.deepEqual(outcomes.map(({ status }) => status), ['rejected', 'rejected'])
  assert.deepEqual(readdirSync(dir), [])
  await (await copies.acquire('x', async path => { writeFileSync(path, '') })).release()
  assert.deepEqual(readdirSync(dir), [])
})

test('a compressed archive that is held is decompressed once, and its copy has no path for others', async t => {
  const dir = tempDir(t)
  const content = join(dir, 'content')
  writeFileSync(content, 'text')
  const path = join(dir, 'x.tar.gz')
  writeFileSync(path, gzipSync(tarOf(dir, ['content'])))
  const archive = new ArchiveFile({ path, name: '/given', links: 'refuse', copies: new DecompressedCopies({ dir: join(dir, 'tmp') }) })
  const held = archive.hold()
  const names: string[][] = []
  for (let i = 0; i < 2; i++) {
    await using range = await archive.open('content')
    assert.equal(range?.path, undefined)
    assert.equal((await range?.read())?.toString(), 'text')
    names.push(readdirSync(join(dir, 'tmp')))
  }
  assert.equal(names[0]?.length, 1)
  assert.deepEqual(names[1], names[0])
  await held[Symbol.asyncDispose]()
  assert.deepEqual(readdirSync(join(dir, 'tmp')), [])
  assert.equal(await archive.open('absent'), undefined)
})
