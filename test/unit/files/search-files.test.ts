import { test } from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { fileProgram, type Answer } from '../../support/file-program.ts'

/** What was found, in any order, and how it ended. */
function found ({ lines }: Answer) {
  const [header, ...rest] = lines()
  assert.deepEqual(header, { ok: true })
  const end = rest.pop()
  assert.equal(end?.['done'], true)
  return { matches: rest, isTruncated: end['isTruncated'], skipped: end['skipped'] }
}

const pathsOf = (answer: Answer) => found(answer).matches.map(({ path }) => String(path)).sort()

function build (t: Parameters<typeof fileProgram>[0]) {
  const rig = fileProgram(t)
  const { at } = rig
  mkdirSync(at('src', 'deep', 'er'), { recursive: true })
  writeFileSync(at('src', 'main.ts'), 'first line\nsecond Needle here\n')
  writeFileSync(at('src', 'deep', 'er', 'leaf.ts'), 'needle')
  writeFileSync(at('readme.md'), 'no such thing\r\nNEEDLE\r\n')
  writeFileSync(at('binary'), Buffer.concat([Buffer.from('needle\n'), Buffer.alloc(10)]))
  symlinkSync(at(), at('src', 'loop'))
  execFileSync('mkfifo', [at('fifo')])
  return rig
}

test('names are found by a glob, in all directories, and no link is followed', (t) => {
  const { run, at } = build(t)
  const glob = (pattern: string) => pathsOf(run(['search', `--glob=${pattern}`, '--limit=100'], [at()]))
  assert.deepEqual(glob('*.ts'), [at('src', 'deep', 'er', 'leaf.ts'), at('src', 'main.ts')])
  assert.deepEqual(glob('src/*'), [at('src', 'deep'), at('src', 'loop'), at('src', 'main.ts')])
  assert.deepEqual(glob('**/*.ts'), [at('src', 'deep', 'er', 'leaf.ts'), at('src', 'main.ts')])
  assert.deepEqual(glob('src/**/leaf.*'), [at('src', 'deep', 'er', 'leaf.ts')])
  assert.deepEqual(glob('src/**'), [at('src', 'deep'), at('src', 'deep', 'er'), at('src', 'deep', 'er', 'leaf.ts'), at('src', 'loop'), at('src', 'main.ts')])
  assert.deepEqual(glob('[fb]i*'), [at('binary'), at('fifo')])
  assert.deepEqual(glob('none'), [])
})

test('lines are found by a text or an expression, and told with their number', (t) => {
  const { run, at } = build(t)
  const lines = (...args: string[]) => found(run(['search', ...args, '--limit=100'], [at()])).matches.map(({ path, line, text }) => [path, line, text]).sort()
  assert.deepEqual(lines('--text=needle'), [[at('src', 'deep', 'er', 'leaf.ts'), 1, 'needle']])
  const all = [[at('readme.md'), 2, 'NEEDLE'], [at('src', 'deep', 'er', 'leaf.ts'), 1, 'needle'], [at('src', 'main.ts'), 2, 'second Needle here']]
  assert.deepEqual(lines('--text=NeeDLE', '--ignore-case'), all)
  assert.deepEqual(lines('--text=n(e+)dle', '--regex', '--ignore-case'), all)
  assert.deepEqual(lines('--text=^second.*here$', '--regex'), [all[2]])
  assert.deepEqual(lines('--text=needle', '--ignore-case', '--glob=*.md'), [all[0]])
})

test('a long line is cut around what was found, between characters', (t) => {
  const { run, at } = fileProgram(t)
  writeFileSync(at('a'), `${'ä'.repeat(2000)}needle${'ö'.repeat(2_000_000)}\nneedle after\n${Buffer.alloc(3_000_000, 'x')}needle`)
  const { matches } = found(run(['search', '--text=needle', '--limit=10'], [at('a')]))
  assert.deepEqual(matches.map(({ line }) => line), [1, 2, 3])
  for (const { text, encoding } of matches) {
    assert.ok(String(text).includes('needle') && Buffer.byteLength(String(text)) <= 512)
    assert.equal(encoding, undefined)
  }
  writeFileSync(at('b'), Buffer.concat([Buffer.alloc(9000, 'x'), Buffer.from('\nneedle\0\xff\n', 'latin1')]))
  const [odd] = found(run(['search', '--text=needle', '--limit=10'], [at('b')])).matches
  assert.equal(odd?.['encoding'], 'base64')
  assert.equal(Buffer.from(String(odd['text']), 'base64').toString('latin1'), 'needle\0\xff')
})

test('it ends at its limit, and when its time is over, also in an expression that takes for ever', { timeout: 30_000 }, (t) => {
  const { run, at } = build(t)
  const few = found(run(['search', '--limit=2'], [at()]))
  assert.deepEqual([few.matches.length, few.isTruncated], [2, true])
  assert.equal(found(run(['search', '--limit=100'], [at()])).isTruncated, false)
  writeFileSync(at('evil'), `${'a'.repeat(50_000)}\n`)
  const evil = found(run(['search', '--regex', '--text=^(a|aa|aaa)*(\\1)*\\1b$', '--max-ms=300', '--limit=10'], [at('evil')]))
  assert.deepEqual([evil.isTruncated, evil.matches], [true, []])
})

test('patterns that are none are refused', (t) => {
  const { run, at } = build(t)
  for (const args of [['--regex', '--text=('], ['--regex', '--text=[a'], ['--text='], ['--glob=']]) {
    const { header } = run(['search', ...args, '--limit=1'], [at()])
    assert.equal(!header.ok && header.problem, 'invalid_pattern', String(args))
  }
})

test('what cannot be read is counted', { skip: process.getuid?.() !== 0 && 'needs root' }, (t) => {
  const { run, at } = build(t)
  mkdirSync(at('closed'), { mode: 0o700 })
  writeFileSync(at('secret'), 'needle', { mode: 0o600 })
  const { skipped, matches } = found(run(['search', '--text=needle', '--limit=10'], [at()], { uid: 1234 }))
  assert.deepEqual([skipped, matches.length], [2, 1])
})

test("the kernel's own file systems are searched only when the search begins there", { timeout: 30_000 }, (t) => {
  const { run } = fileProgram(t)
  assert.ok(found(run(['search', '--glob=cmdline', '--limit=1'], ['/proc'])).matches.length === 1)
  assert.deepEqual(pathsOf(run(['search', '--glob=proc/self', '--limit=1', '--max-ms=20'], ['/'])), [])
})
