/** Parts of a log: what one of several writers wrote, one after the other. */
import assert from 'node:assert/strict'
import { appendFile } from 'node:fs/promises'
import { test, type TestContext } from 'node:test'
import { startLogFile } from '../../../src/services/logs/log-files.ts'
import { removeGeneration } from '../../../src/services/logs/log-removals.ts'
import { brief, build, collect, line } from './log-fixture.ts'

/** Three writers: the first ends amid a character, the second fills two files, the third still writes. */
async function buildThree (t: TestContext) {
  const parts = await build(t)
  const { dir, write, path } = parts
  await write(Buffer.concat([Buffer.from(line('a') + line('b', 'stdout', 'P').slice(0, -1)), Buffer.from([0xe2, 0x82]), Buffer.from('\n')]))
  const second = await startLogFile(dir)
  await write(Buffer.concat([Buffer.from(line('', 'stdout', 'P').slice(0, -1)), Buffer.from([0xac]), Buffer.from('\n' + line('c'))]))
  await startLogFile(dir)
  await appendFile(path(), line('d'))
  const third = await startLogFile(dir)
  await appendFile(path(), line('e'))
  assert.deepEqual([second, third], ['1:0', '3:0'])
  return { ...parts, second, third }
}

const half = Buffer.from([0xe2, 0x82]).toString('base64')
const rest = Buffer.from([0xac]).toString('base64')

test('a part is read from its beginning to its end, and no byte of another', async t => {
  const { read, second, third } = await buildThree(t)
  for (const follow of [false, true]) {
    assert.deepEqual(brief(await read({ until: () => second, isEnded: () => false, follow })), ['o:a', 'o:b…', `o:${half}…`])
    assert.deepEqual(brief(await read({ from: second, until: () => third, isEnded: () => false, follow })), [`o:${rest}…`, 'o:c', 'o:d'])
    assert.deepEqual(brief(await read({ from: third, follow })), ['o:e'])
  }
  assert.deepEqual(brief(await read()), ['o:a', 'o:b…', 'o:€…', 'o:c', 'o:d', 'o:e'])
})

test('reading on within a part gives the rest of it', async t => {
  const { read, second, third } = await buildThree(t)
  for (const part of [{ until: () => second }, { from: second, until: () => third }, { from: third }]) {
    const records = await read(part)
    for (const [index, { cursor }] of records.entries()) {
      assert.deepEqual(await read({ ...part, cursor }), records.slice(index + 1), cursor)
      assert.deepEqual(await read({ ...part, cursor, follow: true }), records.slice(index + 1), cursor)
    }
    assert.deepEqual(await read({ ...part, cursor: '0:0' }), records)
    assert.deepEqual(await read({ ...part, tail: 100 }), records)
    assert.deepEqual(brief(await read({ ...part, tail: 1 })), brief(records).slice(records.length > 2 && !('from' in part) ? -2 : -1))
  }
  assert.deepEqual(await read({ until: () => second, cursor: '3:5' }), [])
})

test('a follower of a part ends when the next begins', async t => {
  const { dir, reader, options, path } = await build(t)
  await appendFile(path(), line('a'))
  const bounds: string[] = []
  const following = collect(reader.read(options({ follow: true, isEnded: () => false, until: () => bounds[0] })))
  await appendFile(path(), line('b'))
  bounds.push(await startLogFile(dir))
  await appendFile(path(), line('c'))
  reader.wake(dir)
  assert.deepEqual(brief(await following), ['o:a', 'o:b'])
})

test('a part of which files are gone begins with a gap of their size, and never shows what follows', async t => {
  const { dir, read, second, third } = await buildThree(t)
  const sizes = [await removeGeneration(dir, 0), await removeGeneration(dir, 1)]
  const gapsOf = async (options: Parameters<typeof read>[0]) => (await read(options)).map(record => record.type === 'gap' ? record.bytes : record.text)
  assert.deepEqual(await gapsOf({ until: () => second }), [sizes[0]])
  assert.deepEqual(await gapsOf({ until: () => second, cursor: '0:10' }), [sizes[0]! - 10])
  assert.deepEqual(await gapsOf({ from: second, until: () => third }), [sizes[1], 'd'])
  assert.deepEqual(await gapsOf({}), [sizes[0]! + sizes[1]!, 'd', 'e'])
  await removeGeneration(dir, 2)
  assert.equal((await gapsOf({ from: second, until: () => third, follow: true })).length, 1)
})
