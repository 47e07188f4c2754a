import { test } from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileProgram } from '../../support/file-program.ts'

const isRoot = process.getuid?.() === 0
const base64 = (text: string | Buffer) => Buffer.from(text).toString('base64')

test('stat tells what a path leads to, and of the link itself when asked', (t) => {
  const { run, at } = fileProgram(t)
  writeFileSync(at('a'), 'hello', { mode: 0o640 })
  chmodSync(at('a'), 0o4640)
  symlinkSync('a', at('link'))
  const { header, status } = run(['stat'], [at('link')])
  assert.equal(status, 0)
  assert.ok(header.ok && header.entry)
  const { name, path, type, sizeBytes, mode, modifiedAt } = header.entry
  assert.deepEqual({ name, path, type, sizeBytes, mode }, { name: 'link', path: at('link'), type: 'file', sizeBytes: 5, mode: '04640' })
  assert.ok(Math.abs(Date.parse(modifiedAt) - Date.now()) < 60_000)
  const link = run(['stat', '--no-follow'], [at('link')]).header
  assert.ok(link.ok && link.entry)
  assert.deepEqual([link.entry.type, link.entry.target], ['symlink', 'a'])
})

test('times are told to the millisecond, before 1970 and after 2100 too', (t) => {
  const { run, at } = fileProgram(t)
  for (const time of ['2100-02-28T23:59:59.125Z', '2000-02-29T12:00:00.500Z', '1969-12-31T23:59:59.000Z', '1970-01-01T00:00:00.000Z', '2026-12-31T00:00:00.000Z']) {
    execFileSync('touch', ['-d', time, at('a')])
    const { header } = run(['stat'], [at('a')])
    assert.equal(header.ok && header.entry?.modifiedAt, time)
  }
})

test('what is wrong with a path is said by a word for it', (t) => {
  const { run, at } = fileProgram(t)
  writeFileSync(at('a'), '')
  symlinkSync('loop', at('loop'))
  const problem = (path: string, args = ['stat']) => {
    const { header, status, stderr } = run(args, [path])
    assert.deepEqual([status, stderr], [1, ''])
    return header.ok ? undefined : header.problem
  }
  assert.equal(problem(at('none')), 'path_not_found')
  assert.equal(problem(at('a', 'b')), 'not_a_directory')
  assert.equal(problem(at('a/')), 'not_a_directory')
  assert.equal(problem(at('loop')), 'too_many_links')
  assert.equal(problem(at('x'.repeat(256))), 'name_too_long')
  assert.equal(problem(at('a'), ['list', '--limit=1']), 'not_a_directory')
  assert.equal(problem(at(), ['read']), 'is_directory')
})

test('arguments that it does not know end it with 2', (t) => {
  const { run, at } = fileProgram(t)
  for (const [args, paths] of [[['fly'], []], [['stat', '--mode=0644'], [at()]], [['stat'], []], [['stat'], ['relative']], [['list'], [at()]],
    [['list', '--limit=0'], [at()]], [['mkdir', '--mode=999'], [at()]], [['stat', '--base64'], ['!!!!']], [['stat', '--base64'], [base64('/a\0b')]]] as const) {
    const { status, stderr } = run([...args], [...paths])
    assert.equal(status, 2, JSON.stringify(args))
    assert.match(stderr, /^files: /)
  }
})

test('a FIFO, a device and a socket are refused at once', (t) => {
  const { run, at } = fileProgram(t)
  execFileSync('mkfifo', [at('fifo')])
  for (const path of [at('fifo'), '/dev/null', '/dev/tty']) {
    for (const args of [['read'], ['list', '--limit=1'], ['archive'], ['search', '--limit=1']]) {
      const { header } = run(args, [path])
      assert.equal(!header.ok && header.problem, 'not_a_file', `${args} ${path}`)
    }
  }
})

test('a page of a directory is sorted by bytes, and the next begins behind it', (t) => {
  const { run, at } = fileProgram(t)
  const names = ['B', 'a', 'new\nline', 'quote"\\', '\u001b[31m', 'é', '日本', 'zz']
  for (const name of names) writeFileSync(at(name), '')
  writeFileSync(Buffer.concat([Buffer.from(`${at()}/`), Buffer.from([0xff, 0xfe])]), '')
  const seen: Buffer[] = []
  for (let after: Buffer | undefined, hasMore = true; hasMore; after = seen.at(-1)) {
    const { header, lines } = run(['list', '--base64', '--limit=2', ...after ? [`--after=${after.toString('base64')}`] : []], [base64(at())])
    assert.ok(header.ok)
    hasMore = header.hasMore ?? false
    for (const { name, path, encoding } of lines().slice(1)) {
      const bytes = (text: unknown) => Buffer.from(String(text), encoding === 'base64' ? 'base64' : 'utf8')
      assert.deepEqual(bytes(path), Buffer.concat([Buffer.from(`${at()}/`), bytes(name)]))
      seen.push(bytes(name))
    }
  }
  const wanted = [...names.map(name => Buffer.from(name)), Buffer.from([0xff, 0xfe])].sort(Buffer.compare)
  assert.deepEqual(seen, wanted)
})

test('a hundred thousand names are listed by pages, and removed', { timeout: 60_000 }, (t) => {
  const { run } = fileProgram(t)
  // Without a disk it is made in no time.
  const many = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'files-'))
  t.after(() => rmSync(many, { recursive: true, force: true }))
  execFileSync('sh', ['-c', 'seq -f %06g 0 99999 | xargs touch'], { cwd: many })
  const first = run(['list', '--limit=1000'], [many]).lines()
  assert.deepEqual([first.length, first[0]?.['hasMore'], first[1]?.['name'], first[1000]?.['name']], [1001, true, '000000', '000999'])
  const last = run(['list', '--limit=100000', '--after=000999'], [many]).lines()
  assert.deepEqual([last.length, last[0]?.['hasMore'], last.at(-1)?.['name']], [99_001, false, '099999'])
  assert.deepEqual(run(['remove', '--recursive'], [many]).header, { ok: true, removed: 100_001 })
})

test('a part of a file is what was asked for', (t) => {
  const { run, at } = fileProgram(t)
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, index) => index % 251))
  for (const size of [10, 300_000]) {
    writeFileSync(at('a'), content.subarray(0, size))
    for (const [args, from, to] of [[[], 0, size], [['--first=3'], 3, size], [['--first=3', '--last=5'], 3, 6], [['--suffix=4'], size - 4, size],
      [['--suffix=999999'], 0, size], [['--first=0', '--last=999999'], 0, size]] as const) {
      const { header, body } = run(['read', ...args], [at('a')])
      assert.ok(header.ok)
      assert.deepEqual([header.first, header.lengthBytes], [from, to - from])
      assert.ok(body.equals(content.subarray(from, to)), String(args))
    }
    const { header } = run(['read', `--first=${size}`], [at('a')])
    assert.deepEqual(!header.ok && [header.problem, header.sizeBytes], ['range_not_satisfiable', size])
  }
})

test('a file of /proc is read although its size is 0', (t) => {
  const { run } = fileProgram(t)
  const { header, body } = run(['read'], ['/proc/self/comm'])
  assert.ok(header.ok)
  assert.deepEqual([header.lengthBytes, body.toString()], [6, 'files\n'])
})

test('a file that becomes shorter while it is read breaks off, one that grows does not grow', { timeout: 20_000 }, async (t) => {
  const { start, at } = fileProgram(t)
  for (const change of [() => truncateSync(at('a'), 1024 ** 2), () => appendFileSync(at('a'), 'more')]) {
    writeFileSync(at('a'), Buffer.alloc(4 * 1024 ** 2))
    const child = start(['read'], [at('a')])
    const ended = new Promise<number | null>(resolve => child.on('exit', resolve))
    // Its pipe is full of the beginning.
    await new Promise(resolve => child.stdout.once('readable', resolve))
    change()
    let length = 0
    for await (const chunk of child.stdout) length += (chunk as Buffer).length
    const isShorter = length < 4 * 1024 ** 2
    assert.equal(await ended, isShorter ? 1 : 0)
    assert.ok(isShorter || length < 4 * 1024 ** 2 + 1024)
  }
})

test('as another user, what that user may not see is refused', { skip: !isRoot && 'needs root' }, (t) => {
  const { run, at } = fileProgram(t)
  writeFileSync(at('secret'), 'x', { mode: 0o600 })
  mkdirSync(at('closed'), { mode: 0o700 })
  mkdirSync(at('names'))
  writeFileSync(at('names', 'a'), '')
  chmodSync(at('names'), 0o744)
  const refusal = (args: string[], path: string) => {
    const { header } = run(args, [path], { uid: 1234 })
    return header.ok ? undefined : header.problem
  }
  assert.equal(refusal(['read'], at('secret')), 'permission_denied')
  assert.equal(refusal(['list', '--limit=9'], at('closed')), 'permission_denied')
  assert.equal(refusal(['write'], at('new')), 'permission_denied')
  // Names without what they stand for.
  const [, entry] = run(['list', '--limit=9'], [at('names')], { uid: 1234 }).lines()
  assert.deepEqual([entry?.['name'], entry?.['mode']], ['a', '0000'])
})

test('a shell is found, also for a user whom nobody knows', (t) => {
  const { run } = fileProgram(t)
  for (const uid of isRoot ? [undefined, 54321] : [undefined]) {
    const { status, stderr } = run(['shell'], [], { input: Buffer.from('echo "$SHELL $HOME $TERM" >&2; exit 3'), uid })
    assert.equal(status, 3)
    assert.match(stderr, /^\/\S+sh \/\S* xterm-256color\n$/)
  }
})
