import { test } from 'node:test'
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { chownSync, existsSync, linkSync, mkdirSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { fileProgram, frame, type Answer } from '../../support/file-program.ts'

const isRoot = process.getuid?.() === 0

/** What was said last: behind the line that says that input may come. */
function outcome ({ lines }: Answer) {
  const said = lines()
  return said.at(-1) ?? {}
}

test('a file is written whole, with mode 0644, or those that were asked for', (t) => {
  const { run, at } = fileProgram(t)
  const content = randomBytes(3_000_001)
  const answer = run(['write', '--mode=0600', `--size=${content.length}`], [at('a')], { input: frame(content, { pieceBytes: 1024 ** 2 }) })
  assert.deepEqual(answer.lines()[0], { ok: true, isReady: true })
  assert.equal(outcome(answer)['isNew'], true)
  assert.ok(readFileSync(at('a')).equals(content))
  assert.equal(statSync(at('a')).mode & 0o7777, 0o600)
  assert.equal(outcome(run(['write'], [at('empty')], { input: frame('') }))['isNew'], true)
  assert.deepEqual([statSync(at('empty')).size, statSync(at('empty')).mode & 0o7777], [0, 0o644])
  assert.equal(outcome(run(['write'], [at('bytewise')], { input: frame('abcdef', { pieceBytes: 1 }) }))['isNew'], true)
  assert.equal(readFileSync(at('bytewise'), 'utf8'), 'abcdef')
})

test('a file that is replaced keeps mode and owner, and those who have it open keep what they have', (t) => {
  const { run, at } = fileProgram(t)
  writeFileSync(at('a'), 'before', { mode: 0o751 })
  if (isRoot) chownSync(at('a'), 1234, 4321)
  linkSync(at('a'), at('other'))
  assert.equal(outcome(run(['write'], [at('a')], { input: frame('after') }))['isNew'], false)
  const { mode, uid, gid } = statSync(at('a'))
  assert.equal(mode & 0o7777, 0o751)
  if (isRoot) assert.deepEqual([uid, gid], [1234, 4321])
  assert.deepEqual([readFileSync(at('a'), 'utf8'), readFileSync(at('other'), 'utf8')], ['after', 'before'])
})

test('input that is cut off, is no frame, or ends with a signal leaves nothing behind', { timeout: 20_000 }, async (t) => {
  const { run, start, at, dir } = fileProgram(t)
  writeFileSync(at('a'), 'before')
  for (const input of [frame('after', { isCut: true }), frame('after').subarray(0, 6), Buffer.alloc(0), Buffer.from([0, 0])]) {
    assert.equal(outcome(run(['write'], [at('a')], { input }))['problem'], 'incomplete')
  }
  assert.equal(outcome(run(['write'], [at('a')], { input: Buffer.from([0xff, 0, 0, 0, 1]) }))['problem'], 'failed')
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    const child = start(['write'], [at('a')])
    const ended = new Promise(resolve => child.on('exit', resolve))
    child.stdin.write(frame('after', { isCut: true }))
    await new Promise(resolve => child.stdout.once('data', resolve))
    assert.equal(readdirSync(dir).length, 2)
    child.kill(signal)
    await ended
  }
  assert.deepEqual([readdirSync(dir), readFileSync(at('a'), 'utf8')], [['a'], 'before'])
})

test('nothing is left when nobody reads the answer any more', { timeout: 20_000 }, async (t) => {
  const { start, at, dir } = fileProgram(t)
  const child = start(['write'], [at('a')])
  await new Promise(resolve => child.stdout.once('data', resolve))
  const ended = new Promise(resolve => child.on('exit', resolve))
  child.stdout.destroy()
  child.stdin.end(frame('x', { isCut: true }))
  await ended
  assert.deepEqual(readdirSync(dir), [])
})

test('a link is followed to the file that it leads to, and stays', (t) => {
  const { run, at } = fileProgram(t)
  mkdirSync(at('d'))
  writeFileSync(at('d', 'target'), 'before')
  symlinkSync('d/target', at('link'))
  symlinkSync(at('link'), at('d', 'again'))
  symlinkSync('missing', at('d', 'dangling'))
  assert.equal(outcome(run(['write'], [at('d', 'again')], { input: frame('after') }))['isNew'], false)
  assert.equal(readFileSync(at('d', 'target'), 'utf8'), 'after')
  assert.deepEqual([readlinkSync(at('link')), readlinkSync(at('d', 'again'))], ['d/target', at('link')])
  assert.equal(outcome(run(['write'], [at('d', 'dangling')], { input: frame('x') }))['isNew'], true)
  assert.equal(readFileSync(at('d', 'missing'), 'utf8'), 'x')
  assert.deepEqual(readdirSync(at('d')).filter(name => name.startsWith('.berth')), [])
})

test('what may not be written is refused before any input is waited for', (t) => {
  const { run, at, dir } = fileProgram(t)
  writeFileSync(at('a'), '')
  mkdirSync(at('d'))
  const refusal = (args: string[], path: string) => {
    const answer = run(['write', ...args], [path])
    return answer.lines()[0]?.['problem']
  }
  assert.equal(refusal([], at('d')), 'is_directory')
  assert.equal(refusal([], at('new/')), 'is_directory')
  assert.equal(refusal([], at('d', '..')), 'is_directory')
  assert.equal(refusal([], at('no', 'where')), 'path_not_found')
  assert.equal(refusal([], at('a', 'b')), 'not_a_directory')
  assert.equal(refusal(['--no-replace'], at('a')), 'path_exists')
  assert.equal(refusal(['--owner=nobody-has-this-name'], at('a')), 'unknown_owner')
  assert.equal(refusal(['--owner=0:nobody-has-this-name'], at('a')), 'unknown_owner')
  assert.equal(refusal(['--size=999999999999999'], at('a')), 'no_space')
  assert.equal(refusal([], '/dev/null'), 'not_a_file')
  assert.deepEqual(readdirSync(dir).sort(), ['a', 'd'])
})

test('directories above are made when asked, and of two that must be first only one is', { timeout: 20_000 }, async (t) => {
  const { run, start, at } = fileProgram(t)
  assert.equal(outcome(run(['write', '--parents'], [at('x', 'y', 'z')], { input: frame('1') }))['isNew'], true)
  assert.equal(statSync(at('x', 'y')).mode & 0o7777, 0o755)
  const children = [1, 2, 3].map(() => start(['write', '--no-replace'], [at('once')]))
  const said = children.map(async child => {
    let text = ''
    for await (const chunk of child.stdout) text += String(chunk)
    return text
  })
  for (const child of children) await new Promise(resolve => child.stdout.once('readable', resolve))
  for (const [index, child] of children.entries()) child.stdin.end(frame(String(index)))
  const texts = await Promise.all(said)
  assert.equal(texts.filter(text => text.includes('"isNew":true')).length, 1)
  assert.equal(texts.filter(text => text.includes('"path_exists"')).length, 2)
  assert.deepEqual(readdirSync(at()).sort(), ['once', 'x'])
})

test('who reads while a file is replaced sees one of the two, whole', { timeout: 20_000 }, async (t) => {
  const { start, at } = fileProgram(t)
  const [before, after] = [Buffer.alloc(200_000, 'a'), Buffer.alloc(300_000, 'b')]
  writeFileSync(at('a'), before)
  const child = start(['write'], [at('a')])
  const ended = new Promise(resolve => child.on('exit', resolve))
  const input = frame(after)
  child.stdin.write(input.subarray(0, input.length - 4))
  for (let turn = 0; turn < 20; turn++, await delay(2)) assert.ok(readFileSync(at('a')).equals(before))
  child.stdin.end(input.subarray(-4))
  await ended
  assert.ok(readFileSync(at('a')).equals(after))
})

test('owners are given by root, and by nobody else', { skip: !isRoot && 'needs root' }, (t) => {
  const { run, at, dir } = fileProgram(t)
  run(['write', '--owner=1234:4321'], [at('a')], { input: frame('x') })
  run(['write', '--owner=root'], [at('b')], { input: frame('x') })
  run(['write', '--owner=4294000'], [at('c')], { input: frame('x') })
  const owner = (name: string) => [statSync(at(name)).uid, statSync(at(name)).gid]
  assert.deepEqual([owner('a'), owner('b'), owner('c')], [[1234, 4321], [0, 0], [4294000, 4294000]])
  chownSync(dir, 1234, 1234)
  assert.equal(outcome(run(['write', '--owner=0:0'], [at('d')], { input: frame('x'), uid: 1234 }))['problem'], 'permission_denied')
  // Of a file that belongs to another it makes one of its own: without the bits that act as its owner.
  writeFileSync(at('theirs'), 'x')
  rmSync(at('a'))
  writeFileSync(at('a'), 'x', { mode: 0o755 })
  assert.equal(outcome(run(['write'], [at('a')], { input: frame('y'), uid: 1234 }))['isNew'], false)
  assert.deepEqual([...owner('a'), statSync(at('a')).mode & 0o7777], [1234, 1234, 0o755])
  assert.deepEqual(readdirSync(dir).filter(name => name.startsWith('.berth')), [])
})

test('a directory is made with its mode, and once', (t) => {
  const { run, at } = fileProgram(t)
  const said = (args: string[], path: string) => outcome(run(['mkdir', ...args], [path]))
  assert.equal(said(['--mode=2770'], at('a'))['isNew'], true)
  assert.equal(statSync(at('a')).mode & 0o7777, 0o2770)
  assert.equal(said([], at('a'))['problem'], 'path_exists')
  assert.equal(said(['--parents'], at('a'))['isNew'], false)
  assert.equal(said([], at('x', 'y'))['problem'], 'path_not_found')
  assert.equal(said(['--parents', '--mode=700'], at('x', 'y'))['isNew'], true)
  assert.deepEqual([statSync(at('x')).mode & 0o777, statSync(at('x', 'y')).mode & 0o777], [0o755, 0o700])
  writeFileSync(at('file'), '')
  symlinkSync('a', at('link'))
  symlinkSync('nowhere', at('dangling'))
  assert.equal(said(['--parents'], at('file'))['problem'], 'path_exists')
  assert.equal(said(['--parents'], at('file', 'b'))['problem'], 'not_a_directory')
  assert.equal(said(['--parents'], at('link'))['isNew'], false)
  assert.equal(said(['--parents'], at('dangling'))['problem'], 'path_exists')
  assert.ok(!existsSync(at('nowhere')))
})
