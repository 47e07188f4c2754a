import { test, type TestContext } from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileProgram, frame } from '../../support/file-program.ts'

const isRoot = process.getuid?.() === 0
const hasOtherFileSystem = existsSync('/dev/shm') && statSync('/dev/shm').dev !== statSync(tmpdir()).dev
const busybox = execFileSync('sh', ['-c', 'command -v busybox || true'], { encoding: 'utf8' }).trim()

/** A chain of directories, longer than any path may be. */
function makeDeep (dir: string, depth: number) {
  const result = spawnSync('python3', ['-c', `
import os, sys
os.chdir(sys.argv[1])
for i in range(int(sys.argv[2])):
  os.mkdir('d' * 50); os.chdir('d' * 50)
open('last', 'w').close()`, dir, String(depth)])
  assert.equal(result.status, 0, String(result.stderr))
}

test('a move replaces a file, a link itself is moved, and what must not be replaced is not', (t) => {
  const { run, at } = fileProgram(t)
  writeFileSync(at('a'), 'a')
  writeFileSync(at('b'), 'b')
  symlinkSync('a', at('link'))
  mkdirSync(at('full', 'x'), { recursive: true })
  mkdirSync(at('empty'))
  const problem = (args: string[], from: string, to: string) => {
    const { header } = run(['move', ...args], [from, to])
    return header.ok ? undefined : header.problem
  }
  assert.equal(problem(['--no-replace'], at('a'), at('b')), 'path_exists')
  assert.equal(problem(['--no-replace'], at('empty'), at('full')), 'path_exists')
  assert.equal(problem([], at('empty'), at('full')), 'directory_not_empty')
  assert.equal(problem([], at('a'), at('full')), 'is_directory')
  assert.equal(problem([], at('full'), at('full', 'x', 'y')), 'path_exists')
  assert.equal(problem([], at('none'), at('b')), 'path_not_found')
  assert.equal(problem([], at('a'), at('no', 'where')), 'path_not_found')
  const { header } = run(['move'], [at('link'), at('b')])
  assert.ok(header.ok && header.entry?.type === 'symlink')
  assert.equal(readlinkSync(at('b')), 'a')
  assert.equal(problem(['--parents'], at('a'), at('p', 'q', 'a')), undefined)
  assert.equal(problem(['--no-replace'], at('full'), at('moved')), undefined)
  assert.deepEqual(readdirSync(at('moved')), ['x'])
})

test('a move between file systems carries all of it, and is there whole or not at all', { skip: (!hasOtherFileSystem && 'needs /dev/shm') || (busybox === '' && 'needs busybox') }, (t) => {
  const { run, at } = fileProgram(t)
  const other = mkdtempSync('/dev/shm/files-')
  t.after(() => rmSync(other, { recursive: true, force: true }))
  mkdirSync(at('tree', 'x'), { recursive: true })
  writeFileSync(at('tree', 'x', 'a'), 'a', { mode: 0o640 })
  symlinkSync('x/a', at('tree', 'link'))
  const move = (args: string[], from: string, to: string) => run(['move', `--busybox=${busybox}`, ...args], [from, to]).header
  assert.ok(move([], at('tree'), join(other, 'tree')).ok)
  assert.deepEqual([readFileSync(join(other, 'tree', 'x', 'a'), 'utf8'), readlinkSync(join(other, 'tree', 'link')), existsSync(at('tree'))], ['a', 'x/a', false])
  writeFileSync(at('b'), 'b')
  writeFileSync(join(other, 'c'), 'c')
  const refused = move(['--no-replace'], at('b'), join(other, 'c'))
  assert.equal(!refused.ok && refused.problem, 'path_exists')
  assert.ok(move([], at('b'), join(other, 'c')).ok)
  assert.equal(readFileSync(join(other, 'c'), 'utf8'), 'b')
  const failed = run(['move', '--busybox=/nowhere'], [join(other, 'c'), at('c')]).header
  assert.ok(!failed.ok && failed.problem === 'failed' && /nowhere/.test(failed.message))
  assert.deepEqual([readdirSync(other).sort(), readdirSync(at())], [['c', 'tree'], []])
})

test('a tree is removed to its last name, and nothing that its links lead to', (t) => {
  const { run, at } = fileProgram(t)
  mkdirSync(at('outside'))
  writeFileSync(at('outside', 'keep'), '')
  mkdirSync(at('tree', 'x', 'y'), { recursive: true })
  symlinkSync(at('outside'), at('tree', 'x', 'link'))
  symlinkSync(at('outside'), at('top'))
  writeFileSync(at('tree', 'a'), '')
  const full = run(['remove'], [at('tree')]).header
  assert.equal(!full.ok && full.problem, 'directory_not_empty')
  assert.deepEqual(run(['remove', '--recursive'], [at('tree')]).header, { ok: true, removed: 5 })
  assert.deepEqual(run(['remove', '--recursive'], [at('top')]).header, { ok: true, removed: 1 })
  assert.deepEqual(readdirSync(at('outside')), ['keep'])
  const missing = run(['remove'], [at('tree')]).header
  assert.equal(!missing.ok && missing.problem, 'path_not_found')
  assert.deepEqual(run(['remove', '--ignore-missing'], [at('tree')]).header, { ok: true, removed: 0 })
})

test('a tree deeper than any path, and than files may be open, is removed', { timeout: 30_000 }, (t) => {
  const { program, at } = fileProgram(t)
  mkdirSync(at('deep'))
  makeDeep(at('deep'), 1000)
  const { stdout } = spawnSync('sh', ['-c', 'ulimit -n 160; exec "$0" "$@"', program, 'remove', '--recursive', '--', at('deep')], { encoding: 'utf8' })
  assert.deepEqual(JSON.parse(stdout), { ok: true, removed: 1002 })
})

test('mount points, the root and what ends in dots are not removed', (t) => {
  const { run, at } = fileProgram(t)
  mkdirSync(at('d', 'e'), { recursive: true })
  for (const path of ['/proc', '/', '/..', `${at('d')}/..`, `${at('d')}/.`]) {
    const { header } = run(['remove', '--recursive'], [path])
    assert.equal(!header.ok && header.problem, 'busy', path)
  }
  assert.ok(existsSync(at('d', 'e')))
})

test('what a user may not remove stays, and is named', { skip: !isRoot && 'needs root' }, (t) => {
  const { run, at } = fileProgram(t)
  mkdirSync(at('d', 'e'), { recursive: true })
  writeFileSync(at('d', 'e', 'f'), '')
  chmodSync(at('d'), 0o777)
  const { header } = run(['remove', '--recursive'], [at('d', 'e')], { uid: 1234 })
  assert.deepEqual(!header.ok && [header.problem, header.path], ['permission_denied', at('d', 'e', 'f')])
})

/** A tree with what a tar may hold. */
function makeTree (t: TestContext) {
  const rig = fileProgram(t)
  const { at } = rig
  const long = 'n'.repeat(200)
  mkdirSync(at('tree', long, long), { recursive: true })
  writeFileSync(at('tree', long, long, 'deep'), 'deep')
  writeFileSync(at('tree', 'a'), Buffer.alloc(100_000, 'a'), { mode: 0o741 })
  writeFileSync(at('tree', 'empty'), '')
  writeFileSync(at('tree', 'new\nline'), 'x')
  symlinkSync('t'.repeat(300), at('tree', 'link'))
  execFileSync('ln', [at('tree', 'a'), at('tree', 'z')])
  execFileSync('mkfifo', [at('tree', 'fifo')])
  mkdirSync(at('tree', 'closed'))
  writeFileSync(at('tree', 'closed', 'x'), 'x')
  chmodSync(at('tree', 'closed'), 0o555)
  utimesSync(at('tree', 'a'), 1e9, 1e9)
  utimesSync(at('tree', 'closed'), 1e9, 1e9)
  return { ...rig, long }
}

function assertTree (dir: string, long: string) {
  assert.deepEqual(readdirSync(dir).sort(), ['a', 'closed', 'empty', 'fifo', 'link', 'new\nline', long, 'z'].sort())
  assert.equal(readFileSync(join(dir, long, long, 'deep'), 'utf8'), 'deep')
  assert.equal(readFileSync(join(dir, 'a'), 'utf8'), 'a'.repeat(100_000))
  assert.deepEqual([statSync(join(dir, 'a')).mode & 0o7777, statSync(join(dir, 'a')).mtimeMs, statSync(join(dir, 'a')).nlink], [0o741, 1e12, 2])
  assert.equal(readlinkSync(join(dir, 'link')), 't'.repeat(300))
  assert.ok(lstatSync(join(dir, 'fifo')).isFIFO())
  assert.deepEqual([statSync(join(dir, 'closed')).mode & 0o777, statSync(join(dir, 'closed')).mtimeMs], [0o555, 1e12])
}

test('an archive holds a tree as it is, for tar and for itself', (t) => {
  const { run, at, long } = makeTree(t)
  const { header, body, status } = run(['archive'], [at('tree')])
  assert.deepEqual([header.ok && header.entry?.name, status, body.length % 512], ['tree', 0, 0])
  mkdirSync(at('out'))
  execFileSync('tar', ['-xpf', '-'], { cwd: at('out'), input: body })
  assertTree(at('out', 'tree'), long)
  const { lines } = run(['extract', '--parents'], [at('new', 'out')], { input: frame(body) })
  assert.deepEqual(lines(), [{ ok: true, isReady: true }, { ok: true }])
  assertTree(at('new', 'out', 'tree'), long)
  // Over what is there: files are replaced, directories stay.
  writeFileSync(at('new', 'out', 'tree', 'empty'), 'not empty')
  chmodSync(at('new', 'out', 'tree'), 0o700)
  assert.deepEqual(run(['extract'], [at('new', 'out')], { input: frame(body) }).lines().at(-1), { ok: true })
  assert.deepEqual([statSync(at('new', 'out', 'tree', 'empty')).size, statSync(at('new', 'out', 'tree')).mode & 0o777], [0, 0o700])
})

test('a single file and what a link leads to are archived under the name that was asked for', (t) => {
  const { run, at } = fileProgram(t)
  mkdirSync(at('d'))
  writeFileSync(at('d', 'a'), 'content')
  symlinkSync('d', at('link'))
  const names = (path: string) => execFileSync('tar', ['-tf', '-'], { input: run(['archive'], [path]).body, encoding: 'utf8' }).trim().split('\n')
  assert.deepEqual(names(at('d', 'a')), ['a'])
  assert.deepEqual(names(at('link')), ['link/', 'link/a'])
})

test('archives of other programs are extracted', (t) => {
  const { run, at, long } = makeTree(t)
  for (const [index, format] of ['gnu', 'pax'].entries()) {
    const input = execFileSync('tar', [`--format=${format}`, '-cf', '-', '-C', at(), 'tree'])
    const out = at(`out${index}`)
    assert.deepEqual(run(['extract', '--parents'], [out], { input: frame(input, { pieceBytes: 1000 }) }).lines().at(-1), { ok: true })
    assertTree(join(out, 'tree'), long)
  }
  mkdirSync(at('short', 'x'.repeat(90)), { recursive: true })
  writeFileSync(at('short', 'x'.repeat(90), 'y'.repeat(60)), 'prefix')
  const input = execFileSync('tar', ['--format=ustar', '-cf', '-', '-C', at(), 'short'])
  assert.deepEqual(run(['extract', '--parents'], [at('ustar')], { input: frame(input) }).lines().at(-1), { ok: true })
  assert.equal(readFileSync(at('ustar', 'short', 'x'.repeat(90), 'y'.repeat(60)), 'utf8'), 'prefix')
})

test('what is no archive, is cut, or leads out of the directory is refused', (t) => {
  const { run, at } = fileProgram(t)
  mkdirSync(at('in'))
  mkdirSync(at('out'))
  writeFileSync(at('in', 'a'), Buffer.alloc(5000))
  const tar = execFileSync('tar', ['-cf', '-', '-C', at('in'), 'a'])
  const last = (input: Buffer) => run(['extract'], [at('out')], { input }).lines().at(-1)
  assert.equal(last(frame(''))?.['problem'], 'invalid_archive')
  assert.equal(last(frame(Buffer.alloc(2000, 'x')))?.['problem'], 'invalid_archive')
  assert.equal(last(frame(execFileSync('gzip', ['-c'], { input: tar })))?.['problem'], 'invalid_archive')
  assert.equal(last(frame(tar.subarray(0, 3000)))?.['problem'], 'invalid_archive')
  assert.equal(last(frame(tar.subarray(0, 3000), { isCut: true }))?.['problem'], 'incomplete')
  assert.deepEqual(readdirSync(at('out')), [])
  const escaping = execFileSync('tar', ['-P', '-cf', '-', '-C', at('out'), '../in/a'])
  assert.equal(last(frame(escaping))?.['problem'], 'invalid_archive')
  assert.deepEqual(last(frame(Buffer.alloc(1024))), { ok: true })
  assert.deepEqual(readdirSync(at('out')), [])
  assert.equal(run(['extract'], [at('in', 'a')]).lines().at(-1)?.['problem'], 'not_a_directory')
})

test('root gives what is extracted to whom it is told to, else keeps it, without the bits that act as an owner', { skip: !isRoot && 'needs root' }, (t) => {
  const { run, at } = fileProgram(t)
  mkdirSync(at('in', 'd'), { recursive: true })
  writeFileSync(at('in', 'd', 'a'), '')
  execFileSync('chown', ['-R', '77:77', at('in')])
  chmodSync(at('in', 'd', 'a'), 0o4755)
  const input = frame(execFileSync('tar', ['-cf', '-', '-C', at('in'), 'd/a']))
  run(['extract', '--parents'], [at('own')], { input })
  run(['extract', '--parents', '--owner=1234:4321'], [at('given')], { input })
  const facts = (...names: string[]) => [statSync(at(...names)).uid, statSync(at(...names)).gid, statSync(at(...names)).mode & 0o7777]
  assert.deepEqual([facts('own', 'd', 'a'), facts('given', 'd', 'a'), facts('given', 'd')], [[0, 0, 0o755], [1234, 4321, 0o755], [1234, 4321, 0o755]])
  chmodSync(at('own'), 0o755)
  assert.equal(run(['extract'], [at('own')], { input, uid: 1234 }).lines().at(-1)?.['problem'], 'permission_denied')
})
