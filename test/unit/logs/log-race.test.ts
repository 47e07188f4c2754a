/** Rotations at the very moments between two of the reader's system calls. */
import assert from 'node:assert/strict'
import fs, { appendFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import promises, { open, type FileHandle } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { test, type TestContext } from 'node:test'
import { brief, build, collect, line } from './log-fixture.ts'

test('what is written to a file after its end was seen and before the next file came is read', async t => {
  const { reader, options, write, path } = await build(t)
  await write(line('a'))
  let ended = false
  await afterRead(t, path(), ({ bytesRead }) => {
    if (bytesRead > 0 || ended) return
    appendFileSync(path(), line('b'))
    renameSync(path(), path('log.0'))
    writeFileSync(path(), line('c'))
    ended = true
  })
  const texts: string[] = []
  for await (const batch of reader.readBatches(options({ follow: true, isEnded: () => ended }))) texts.push(...brief(batch))
  assert.deepEqual(texts, ['o:a', 'o:b', 'o:c'])
})

test('what is written after the end was seen and before the writer ended is read', async t => {
  const { dir, reader, options, write, path } = await build(t)
  await write(line('a'))
  let ended = false
  await afterRead(t, path(), ({ bytesRead }) => {
    if (bytesRead > 0 || ended) return
    appendFileSync(path(), line('b').slice(0, -1))
    ended = true
    reader.wake(dir)
  })
  const texts: string[] = []
  for await (const batch of reader.readBatches(options({ follow: true, isEnded: () => ended }))) texts.push(...brief(batch))
  assert.deepEqual(texts, ['o:a', 'o:b'])
})

test('followers that share what they read believe in an end of file only once it is final', async t => {
  const { reader, options, write, path } = await build(t)
  // The kernel tells nothing, so that only what is looked at counts.
  const watching = t.mock.method(fs, 'watch', () => { throw new Error('no watch is left') })
  syncBuiltinESMExports()
  t.after(() => {
    watching.mock.restore()
    syncBuiltinESMExports()
  })
  await write(line('a'))
  let ended = false
  let reads = 0
  await afterRead(t, path(), ({ bytesRead }) => {
    // The first to see the end of the file; others come to the same place before anything is told of what follows.
    if (bytesRead > 0 || reads++ > 0) return
    appendFileSync(path(), line('b'))
    renameSync(path(), path('log.0'))
    writeFileSync(path(), line('c'))
    ended = true
  })
  const follow = async () => {
    const texts: string[] = []
    for await (const batch of reader.readBatches(options({ follow: true, isEnded: () => ended }))) texts.push(...brief(batch))
    return texts
  }
  assert.deepEqual(await Promise.all([follow(), follow(), follow()]), Array.from({ length: 3 }, () => ['o:a', 'o:b', 'o:c']))
})

test('a rotation right after any listing is not mistaken for the file that was listed', async t => {
  const { reader, options, path, write } = await build(t)
  const { readdir } = promises
  let left = 0
  const mocked = t.mock.method(promises, 'readdir', async (dir: string) => {
    const names = await readdir(dir)
    if (--left === 0) {
      renameSync(path(), path('log.0'))
      writeFileSync(path(), line('b'))
    }
    return names
  })
  syncBuiltinESMExports()
  t.after(() => {
    mocked.mock.restore()
    syncBuiltinESMExports()
  })
  // Until it waits for more, a follower lists the directory more than seven times.
  for (let listing = 1; listing <= 7; listing++) {
    rmSync(path('log.0'), { force: true })
    await write(line('a'))
    left = listing
    const records = await collect(reader.read(options({ cursor: '0:0', follow: true, isEnded: () => left <= 0 })))
    assert.deepEqual(brief(records), ['o:a', 'o:b'], `listing ${listing}`)
    assert.deepEqual(records.map(record => record.cursor), [`0:${line('a').length}`, `1:${line('b').length}`])
  }
})

/** Calls back after each read of any file, before the reader learns of it. */
async function afterRead (t: TestContext, anyFile: string, callback: (result: { bytesRead: number }) => void): Promise<void> {
  const handle = await open(anyFile)
  const prototype = Object.getPrototypeOf(handle) as FileHandle
  await handle.close()
  const read = prototype.read as (...args: unknown[]) => Promise<{ bytesRead: number }>
  t.mock.method(prototype, 'read', async function (this: FileHandle, ...args: unknown[]) {
    const result = await read.apply(this, args)
    callback(result)
    return result
  })
}
