import assert from 'node:assert/strict'
import { appendFile, readFile, readdir, rename, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { LogBudget, type BudgetedLog } from '../../../src/services/logs/log-budget.ts'
import { startLogFile } from '../../../src/services/logs/log-files.ts'
import { removeGeneration } from '../../../src/services/logs/log-removals.ts'
import { LogRotator } from '../../../src/services/logs/log-rotator.ts'
import { brief, build, line } from './log-fixture.ts'

const text = line('x'.repeat(50))
const fileBytes = text.length

/** A log of so many files, of which the last is `log`; `age` orders them in time. */
async function makeLog (t: TestContext, files: number, options: Partial<BudgetedLog> & { age?: number } = {}) {
  const parts = await build(t)
  for (let generation = 0; generation < files; generation++) {
    const name = generation === files - 1 ? 'log' : `log.${generation}`
    await parts.write(text, name)
    const when = (options.age ?? 0) * 1000 + generation
    await utimes(parts.path(name), when, when)
  }
  const log: BudgetedLog = { dir: parts.dir, isEnded: () => false, ...options }
  return { ...parts, log, names: async () => (await readdir(parts.dir)).filter(name => name !== 'log.removed').sort() }
}

test('within the budget nothing is removed', async t => {
  const { log, names } = await makeLog(t, 3, { isEnded: () => true })
  assert.deepEqual(await new LogBudget({ diskBytes: 3 * fileBytes }).enforce([log]), { totalBytes: 3 * fileBytes, removedBytes: 0 })
  assert.deepEqual(await names(), ['log', 'log.0', 'log.1'])
})

test('what has ended goes first, oldest end first, then what runs, then what is still needed', async t => {
  const running = await makeLog(t, 4, { age: 1 })
  const needed = await makeLog(t, 4, { age: 0, protectedFrom: 1 })
  const early = await makeLog(t, 2, { isEnded: () => true, endedAt: '2026-01-01T00:00:00Z', age: 3 })
  const late = await makeLog(t, 2, { isEnded: () => true, endedAt: '2026-01-02T00:00:00Z', age: 2 })
  const logs = [running, late, needed, early]
  const removed: string[] = []
  const names = async () => (await Promise.all(logs.map(async (one, index) => (await one.names()).map(name => `${'rlne'[index]}/${name}`)))).flat()
  for (let before = await names(), budget = 11; budget >= 0; budget--) {
    await new LogBudget({ diskBytes: budget * fileBytes }).enforce(logs.map(({ log }) => log))
    const after = await names()
    removed.push(before.filter(name => !after.includes(name)).join())
    before = after
  }
  assert.deepEqual(removed, ['e/log.0', 'e/log', 'l/log.0', 'l/log', 'n/log.0', 'r/log.0', 'r/log.1', 'n/log.1', '', '', '', ''])
  assert.deepEqual(brief(await running.read()), ['gap', `o:${'x'.repeat(50)}`, `o:${'x'.repeat(50)}`])
})

test('a log of which nothing is left is a gap of known size, once, and the end', async t => {
  const { log, read, names, dir, write } = await makeLog(t, 3, { isEnded: () => true })
  await new LogBudget({ diskBytes: 0 }).enforce([log])
  assert.deepEqual(await names(), [])
  for (const [options, bytes] of [[{}, 3 * fileBytes], [{ cursor: `1:${fileBytes}` }, fileBytes], [{ cursor: '1:4', follow: true }, 2 * fileBytes - 4], [{ tail: 1 }, 3 * fileBytes]] as const) {
    const records = await read(options)
    assert.deepEqual(records.map(record => [record.type, record.cursor, record.type === 'gap' && record.bytes]), [['gap', '3:0', bytes]])
  }
  assert.deepEqual(await read({ cursor: '3:0' }), [])
  assert.equal(await startLogFile(dir), '3:0')
  await write(line('again'))
  assert.deepEqual(brief(await read()), ['gap', 'o:again'])
  assert.equal((await read({ cursor: '3:0' }))[0]!.cursor, `3:${line('again').length}`)
})

test('a crash at any point of a removal leaves the count of files', async t => {
  const { dir, read, write, path } = await build(t)
  await write(line('a'), 'log.0')
  await write(line('b'), 'log.1')
  // Noted, the second only in part, but not removed.
  await appendFile(path('log.removed'), `\n0 ${line('a').length}\n\n1 4`)
  assert.deepEqual(brief(await read()), ['o:a', 'o:b'])
  for (const generation of [0, 1]) {
    assert.equal(await removeGeneration(dir, generation), line('a').length)
    assert.equal(await removeGeneration(dir, generation), 0)
  }
  assert.deepEqual((await read()).map(record => [record.cursor, record.type === 'gap' && record.bytes]), [['2:0', 2 * line('a').length]])
})

test('a log that begins anew while the budget is enforced is not taken away', async t => {
  const { log, names } = await makeLog(t, 1)
  let asked = 0
  // Ended when the files are listed, and begun anew when the last is to go.
  await new LogBudget({ diskBytes: 0 }).enforce([{ ...log, isEnded: () => asked++ === 0 }])
  assert.deepEqual(await names(), ['log'])
})

test('the note of what was removed stays small', async t => {
  const { dir, write, path, read } = await build(t)
  const lines = Array.from({ length: 9000 }, (_, generation) => `${generation} 100\n`)
  await write(lines.join(''), 'log.removed')
  await write(text, 'log.9000')
  await write(line('y'), 'log.9001')
  await removeGeneration(dir, 9000)
  const note = await readFile(path('log.removed'), 'utf8')
  assert.equal(note.trim().split('\n').length, 1000)
  assert.deepEqual(await readdir(dir), ['log.9001', 'log.removed'])
  const gapOf = async (cursor: string) => (await read({ cursor })).map(record => record.type === 'gap' && record.bytes)[0]
  assert.equal(await gapOf('9000:0'), fileBytes)
  assert.equal(await gapOf('8999:50'), fileBytes + 50)
  assert.equal(await gapOf('0:0'), undefined)
})

test('a writer that begins anew gets the next file, however often it is asked for', async t => {
  const { dir, write, read, path } = await build(t)
  assert.equal(await startLogFile(dir), '0:0')
  await write(line('a'))
  assert.equal(await startLogFile(dir), '1:0')
  assert.equal(await startLogFile(dir), '1:0')
  await write(line('b'))
  assert.deepEqual(brief(await read()), ['o:a', 'o:b'])
  assert.deepEqual(brief(await read({ cursor: '1:0' })), ['o:b'])
  assert.equal(await startLogFile(path('absent')), '0:0')
})

test('rotation keeps what is still needed, and otherwise all within the bytes for a log', async t => {
  const { dir, path, write } = await makeLog(t, 5)
  const names = async () => (await readdir(dir)).filter(name => /^log\.\d/.test(name)).sort()
  let protectedFrom: number | undefined = 1
  const rotator = new LogRotator({ maxLogBytes: 1000, keepBytes: 2 * fileBytes, protectedFrom: () => protectedFrom })
  const check = () => rotator.check(dir, () => assert.fail('reopened'))
  await check()
  assert.deepEqual(await names(), ['log.1', 'log.2', 'log.3'])
  protectedFrom = undefined
  await check()
  assert.deepEqual(await names(), ['log.3'])
  await rename(path(), join(dir, 'log.4'))
  await write('')
  await check()
  assert.deepEqual(await names(), ['log.3', 'log.4'])
})
