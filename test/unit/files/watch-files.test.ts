import { test, type TestContext } from 'node:test'
import assert from 'node:assert/strict'
import { appendFileSync, chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileProgram, linesOf } from '../../support/file-program.ts'

type Change = Record<string, unknown>

/** Watches; `until` gives the changes up to the one of this path, and that one. */
async function watch (t: TestContext, { args = ['--recursive'], prepare = () => {}, path }: { args?: string[], prepare?: (dir: string) => void, path?: string } = {}) {
  const rig = fileProgram(t)
  prepare(rig.dir)
  const child = rig.start(['watch', ...args], [path === undefined ? rig.dir : rig.at(path)])
  const ended = new Promise<number | null>(resolve => child.on('exit', resolve))
  const lines = linesOf(child.stdout)
  const next = async (): Promise<Change> => (await lines.next()).value as Change
  assert.deepEqual(await next(), { ok: true })
  assert.equal((await next())['type'], 'ready')
  return {
    ...rig,
    child,
    ended,
    next,
    async until (end: string): Promise<string[]> {
      const seen: string[] = []
      for (;;) {
        const change = await next()
        const name = (text: unknown) => String(text).slice(rig.dir.length + 1)
        if (change['type'] === 'attributes' && name(change['path']) === '') continue
        seen.push(`${change['type']} ${name(change['path'])}${change['from'] === undefined ? '' : ` from ${name(change['from'])}`}${change['isDirectory'] ? '/' : ''}`)
        if (name(change['path']) === end) return seen
      }
    },
  }
}

test('changes of a directory are told in their order', { timeout: 20_000 }, async (t) => {
  const { at, until } = await watch(t)
  writeFileSync(at('a'), 'x')
  chmodSync(at('a'), 0o600)
  renameSync(at('a'), at('b'))
  mkdirSync(at('d'))
  rmSync(at('b'))
  writeFileSync(at('end'), '')
  assert.deepEqual(await until('end'), ['created a', 'modified a', 'attributes a', 'renamed b from a', 'created d/', 'removed b', 'created end'])
})

test('many writes to one file are few changes', { timeout: 20_000 }, async (t) => {
  const { at, until } = await watch(t, { prepare: dir => writeFileSync(join(dir, 'a'), '') })
  for (let index = 0; index < 1000; index++) {
    appendFileSync(at('a'), 'x')
    chmodSync(at('a'), index % 2 ? 0o600 : 0o644)
    appendFileSync(at('a'), 'x')
  }
  writeFileSync(at('end'), '')
  const seen = await until('end')
  assert.ok(seen.includes('modified a') && seen.length <= 3001)
  for (let index = 0; index < 1000; index++) appendFileSync(at('a'), 'x')
  writeFileSync(at('last'), '')
  assert.ok((await until('last')).length < 200)
})

test('what is in a new directory is told once, and what happens there later too', { timeout: 20_000 }, async (t) => {
  const { at, until } = await watch(t)
  mkdirSync(at('x', 'y', 'z'), { recursive: true })
  writeFileSync(at('x', 'y', 'z', 'a'), '')
  writeFileSync(at('end'), '')
  const seen = (await until('end')).filter(line => line.startsWith('created'))
  assert.deepEqual(seen.sort(), ['created end', 'created x/', 'created x/y/', 'created x/y/z/', 'created x/y/z/a'])
  rmSync(at('x', 'y', 'z', 'a'))
  assert.deepEqual(await until('x/y/z/a'), ['removed x/y/z/a'])
  writeFileSync(at('x', 'y', 'z', 'a'), '')
  assert.deepEqual(await until('x/y/z/a'), ['created x/y/z/a'])
})

test('a directory that is renamed is told of by its name from then on', { timeout: 20_000 }, async (t) => {
  const { at, until } = await watch(t, { prepare: dir => mkdirSync(join(dir, 'a', 'b'), { recursive: true }) })
  renameSync(at('a'), at('c'))
  await until('c')
  writeFileSync(at('c', 'b', 'f'), '')
  assert.deepEqual(await until('c/b/f'), ['created c/b/f'])
})

test('what comes from outside is created, what goes there removed and no longer seen', { timeout: 20_000 }, async (t) => {
  const { dir, at, until } = await watch(t, { prepare: path => mkdirSync(join(path, 'in')) })
  const outside = mkdtempSync(join(dirname(dir), 'outside-'))
  mkdirSync(join(outside, 'd', 'e'), { recursive: true })
  renameSync(join(outside, 'd'), at('d'))
  writeFileSync(at('end1'), '')
  assert.deepEqual(await until('end1'), ['created d/', 'created d/e/', 'created end1'])
  renameSync(at('d'), join(outside, 'd'))
  await until('d')
  writeFileSync(join(outside, 'd', 'e', 'unseen'), '')
  writeFileSync(at('end2'), '')
  assert.deepEqual(await until('end2'), ['created end2'])
})

test('links are not followed below the path, which may be one itself', { timeout: 20_000 }, async (t) => {
  const { at, until } = await watch(t, { path: 'link', prepare: dir => { mkdirSync(join(dir, 'real', 'd'), { recursive: true }); symlinkSync('real', join(dir, 'link')); symlinkSync('..', join(dir, 'real', 'up')) } })
  writeFileSync(at('other'), '')
  writeFileSync(at('real', 'd', 'a'), '')
  assert.deepEqual(await until('link/d/a'), ['created link/d/a'])
})

test('a name that is not UTF-8 is told in base64', { timeout: 20_000 }, async (t) => {
  const { dir, next } = await watch(t)
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff])]), '')
  const { path, encoding } = await next()
  assert.equal(encoding, 'base64')
  assert.ok(Buffer.from(String(path), 'base64').equals(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff])])))
})

test('a file is watched until it goes', { timeout: 20_000 }, async (t) => {
  const { at, ended, next } = await watch(t, { args: [], path: 'a', prepare: dir => writeFileSync(join(dir, 'a'), '') })
  appendFileSync(at('a'), 'x')
  assert.equal((await next())['type'], 'modified')
  rmSync(at('a'))
  const types: unknown[] = []
  for (let change = await next(); change; change = await next()) types.push(change['type'])
  assert.equal(types.at(-1), 'removed')
  assert.equal(await ended, 0)
})

test('it ends when nobody listens any more', { timeout: 20_000 }, async (t) => {
  const { child, ended } = await watch(t)
  child.stdout.destroy()
  assert.equal(await ended, 0)
})

test('a storm of changes ends in the state that is there', { timeout: 20_000 }, async (t) => {
  const { at, until } = await watch(t)
  for (let round = 0; round < 300; round++) {
    mkdirSync(at('d', 'e'), { recursive: true })
    writeFileSync(at('d', 'e', 'f'), '')
    renameSync(at('d'), at('r'))
    rmSync(at('r'), { recursive: true })
  }
  mkdirSync(at('d'))
  writeFileSync(at('end'), '')
  const seen = await until('end')
  assert.ok(seen.includes('created d/'))
  writeFileSync(at('d', 'later'), '')
  assert.deepEqual((await until('d/later')).at(-1), 'created d/later')
})

test('what is made while a new directory is looked into is told once', { timeout: 20_000 }, async (t) => {
  const { at, until } = await watch(t)
  for (let round = 0; round < 400; round++) {
    mkdirSync(at(`d${round}`, 'e'), { recursive: true })
    for (const name of ['f', 'g', 'h']) writeFileSync(at(`d${round}`, 'e', name), '')
  }
  writeFileSync(at('end'), '')
  const created = (await until('end')).filter(line => line.startsWith('created'))
  assert.equal(created.length, 400 * 5 + 1)
  assert.equal(new Set(created).size, created.length)
})
