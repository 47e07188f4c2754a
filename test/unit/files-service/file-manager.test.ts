import assert from 'node:assert/strict'
import { Readable, PassThrough } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { buildFiles, entry, target } from './file-rig.ts'

const signal = new AbortController().signal
const write = { parents: true, overwrite: true, signal }

test('a call is one run of the program, as the user and with nothing of the sandbox\'s environment', async t => {
  const { files, programs, isIdle } = await buildFiles(t, { play: program => program.say({ ok: true, entry }).end() })
  assert.deepEqual(await files.stat(target, { follow: false, signal }), entry)
  const [program] = programs
  assert.deepEqual(program?.argv, ['/.berth/files', 'stat', '--no-follow', '--base64', '--', Buffer.from('/workspace/f').toString('base64')])
  assert.deepEqual(program?.env, [])
  assert.ok(await isIdle())
})

test('what is refused inside is an error of that name, in our words', async t => {
  const { files } = await buildFiles(t, { play: program => program.say({ ok: false, problem: 'no_space', message: '\u001b[31mhostile', path: '/workspace/f' }).end(1) })
  await assert.rejects(files.stat(target, { follow: true, signal }), (error: BerthError) => {
    assert.deepEqual([error.kind, error.code, error.details], ['exhausted', 'no_space', { path: '/workspace/f' }])
    assert.ok(!error.message.includes('hostile'))
    return true
  })
})

test('nothing that the program can say is taken for an answer that it is not', async t => {
  const answers: unknown[] = [
    '', 'no json\n', '[]\n', 'null\n', { ok: 'yes' }, { ok: true }, { ok: false, problem: 'made up' }, { ok: true, entry: { ...entry, type: 'cake' } },
    { ok: true, entry: { ...entry, sizeBytes: -1 } }, { ok: true, entry: { ...entry, modifiedAt: 'now' } }, { ok: true, entry: { ...entry, uid: 2 ** 33 } },
    { ok: true, entry: { ...entry, name: '\ud800' } }, { ok: true, entry: { ...entry, encoding: 'rot13' } }, `${'x'.repeat(70_000)}\n`, '{"ok":true',
  ]
  for (const answer of answers) {
    const { files, isIdle } = await buildFiles(t, { play: program => program.say(answer).end(1) })
    await assert.rejects(files.stat(target, { follow: true, signal }), { code: 'file_program_failed' }, JSON.stringify(answer).slice(0, 80))
    assert.ok(await isIdle())
  }
})

test('fields that nobody knows are dropped', async t => {
  const { files } = await buildFiles(t, { play: program => program.say({ ok: true, entry: { ...entry, extra: 1, __proto__: { owner: 'x' } } }).end() })
  assert.deepEqual(await files.stat(target, { follow: true, signal }), entry)
})

test('a program that says nothing is killed when its time is over', async t => {
  const { files, programs, isIdle } = await buildFiles(t, { play: () => {}, deadlineMs: 50 })
  await assert.rejects(files.stat(target, { follow: true, signal }), { kind: 'timed_out', code: 'file_program_silent' })
  assert.ok(await isIdle())
  assert.ok(programs[0]?.wasKilled)
})

test('a list is a page, and a page that breaks off is an error', async t => {
  const line = (name: string) => ({ ...entry, name, path: `/workspace/${name}` })
  const whole = await buildFiles(t, { play: program => program.say({ ok: true, entry, hasMore: true }, line('a'), line('b')).end() })
  const page = await whole.files.list(target, { limit: 2, signal })
  assert.deepEqual(page.items.map(({ name }) => name), ['a', 'b'])
  assert.equal(Buffer.from(page.nextCursor ?? '', 'base64url').toString(), 'b')
  await whole.files.list(target, { limit: 2, cursor: page.nextCursor, signal })
  assert.ok(whole.programs[1]?.argv.includes(`--after=${Buffer.from('b').toString('base64')}`))
  const cut = await buildFiles(t, { play: program => program.say({ ok: true, entry, hasMore: false }, line('a')).end(137) })
  await assert.rejects(cut.files.list(target, { limit: 2, signal }), { code: 'file_program_failed' })
  const many = await buildFiles(t, { play: program => program.say({ ok: true, entry, hasMore: false }, line('a'), line('b')).end() })
  await assert.rejects(many.files.list(target, { limit: 1, signal }), { code: 'file_program_failed' })
})

test('so many bytes are read as were announced, no more, and fewer are an error', async t => {
  const read = async (bytes: string) => {
    const { files, isIdle } = await buildFiles(t, { play: program => program.say({ ok: true, entry, first: 0, lengthBytes: 5 }, bytes).end() })
    const { body } = await files.read(target, { signal })
    const read = await buffer(body).finally(isIdle)
    return read.toString()
  }
  assert.equal(await read('12345'), '12345')
  assert.equal(await read('123456789'), '12345')
  await assert.rejects(read('123'), { code: 'file_program_failed' })
})

test('bytes of unknown number end with the program, if that ends well', async t => {
  const good = await buildFiles(t, { play: program => program.say({ ok: true, entry, first: 0 }, 'all').end() })
  assert.equal(String(await buffer((await good.files.read(target, { signal })).body)), 'all')
  const bad = await buildFiles(t, { play: program => program.say({ ok: true, entry, first: 0 }, 'half').end(137) })
  await assert.rejects(async () => buffer((await bad.files.read(target, { signal })).body), { code: 'file_program_failed' })
})

test('a pipe that another process holds open ends with the program', async t => {
  const { files } = await buildFiles(t, {
    play: program => {
      program.say({ ok: true, entry, first: 0 }, 'all')
      program.stdout.end = () => program.stdout
      program.end()
    },
  })
  assert.equal(String(await buffer((await files.read(target, { signal })).body)), 'all')
})

test('a reader that goes away ends the program', async t => {
  const { files, isIdle } = await buildFiles(t, { play: program => program.say({ ok: true, entry, first: 0, lengthBytes: 1e9 }, 'some') })
  const gone = new AbortController()
  const { body } = await files.read(target, { signal: gone.signal })
  gone.abort(new BerthError('cancelled', 'client_gone', 'gone'))
  await assert.rejects(buffer(body), { code: 'client_gone' })
  assert.ok(await isIdle())
})

test('a body goes in as frames, with an end that says that it was all', async t => {
  const { files, programs } = await buildFiles(t, {
    play: program => {
      program.say({ ok: true, isReady: true })
      program.stdin.on('data', chunk => { if (chunk.subarray(-4).equals(Buffer.alloc(4))) program.say({ ok: true, entry, isNew: true }).end() })
    },
  })
  const chunks: Buffer[] = []
  let ready = 0
  const onReady = () => {
    ready++
    programs[0]?.stdin.on('data', chunk => chunks.push(chunk))
  }
  const answer = files.write(target, { ...write, mode: '0600', sizeBytes: 5, source: Readable.from([Buffer.from('he'), Buffer.from('llo')]), onReady })
  assert.deepEqual(await answer, { entry, isNew: true })
  assert.equal(ready, 1)
  assert.equal(Buffer.concat(chunks).toString('latin1'), '\0\0\0\x02he\0\0\0\x03llo\0\0\0\0')
  assert.deepEqual(programs[0]?.argv.slice(1, 5), ['write', '--mode=0600', '--parents', '--size=5'])
})

test('a body that breaks off is never said to be all', async t => {
  const seen: Buffer[] = []
  const { files, isIdle } = await buildFiles(t, {
    play: program => {
      program.say({ ok: true, isReady: true })
      program.stdin.on('data', chunk => seen.push(chunk))
      program.stdin.on('close', () => program.end(1))
    },
  })
  const source = new PassThrough()
  source.write('half')
  setTimeout(() => source.destroy(), 30)
  await assert.rejects(files.write(target, { ...write, source }), { code: 'client_gone' })
  assert.ok(await isIdle())
  assert.equal(Buffer.concat(seen).toString('latin1'), '\0\0\0\x04half')
})

test('a body, or a program, that stands still is cut off', async t => {
  const stalled = await buildFiles(t, { play: program => program.say({ ok: true, isReady: true }).stdin.resume().on('close', () => program.end(1)), stallMs: 50 })
  await assert.rejects(stalled.files.write(target, { ...write, source: new PassThrough() }), { code: 'request_too_slow' })
  const full = await buildFiles(t, { play: program => program.say({ ok: true, isReady: true }).stdin.on('close', () => program.end(1)), stallMs: 50 })
  const endless = new Readable({ read () { setImmediate(() => this.push(Buffer.alloc(65536))) } })
  await assert.rejects(full.files.write(target, { ...write, source: endless }), { code: 'file_program_silent' })
})

test('a refusal in the middle of a body is answered at once', async t => {
  const { files } = await buildFiles(t, {
    play: program => {
      program.say({ ok: true, isReady: true })
      program.stdin.once('data', () => program.say({ ok: false, problem: 'no_space', message: '' }).end(1))
    },
  })
  const endless = new Readable({ read () { setImmediate(() => this.push(Buffer.alloc(65536))) } })
  await assert.rejects(files.write(target, { ...write, source: endless }), { code: 'no_space' })
})

test('nothing of a body is read where it is refused before', async t => {
  const { files } = await buildFiles(t, { play: program => program.say({ ok: false, problem: 'is_directory', message: '' }).end(1) })
  let reads = 0
  const source = new Readable({ read () { reads++ } })
  await assert.rejects(files.write(target, { ...write, source, onReady: () => assert.fail('no leave') }), { code: 'is_directory' })
  assert.equal(reads, 0)
})

test('a search ends with its last line, and without it is an error', async t => {
  const match = { path: '/a', type: 'file', sizeBytes: 1 }
  const search = { regex: false, ignoreCase: false, limit: 10, timeoutMs: 1000, signal }
  const whole = await buildFiles(t, { play: program => program.say({ ok: true }, match, { done: true, isTruncated: false, skipped: 2 }).end() })
  assert.deepEqual(await whole.files.search(target, search), { items: [match], isTruncated: false, skipped: 2 })
  const cut = await buildFiles(t, { play: program => program.say({ ok: true }, match).end() })
  await assert.rejects(cut.files.search(target, search), { code: 'file_program_failed' })
})

test('a watch goes on until its sandbox ends, and is an error where only the program does', async t => {
  const collect = async (status: string) => {
    const { files, programs, sandbox } = await buildFiles(t, { play: program => program.say({ ok: true }, { type: 'ready', path: '/workspace/f' }) })
    const seen: string[] = []
    for await (const { type } of await files.watch(target, { recursive: false, signal })) {
      seen.push(type)
      sandbox.status = status
      programs[0]?.end(137)
    }
    return seen
  }
  assert.deepEqual(await collect('stopping'), ['ready'])
  await assert.rejects(collect('running'), { code: 'file_program_failed' })
})

test('at most 32 calls go on at once in a sandbox', async t => {
  const { files, isIdle } = await buildFiles(t, { play: program => program.say({ ok: true }) })
  const gone = new AbortController()
  const watches = await Promise.all(Array.from({ length: 32 }, () => files.watch(target, { recursive: false, signal: gone.signal })))
  await assert.rejects(files.stat(target, { follow: true, signal }), { kind: 'exhausted', code: 'too_many_file_calls' })
  gone.abort()
  assert.equal(watches.length, 32)
  assert.ok(await isIdle())
})

test('paths are absolute, and of bytes', async t => {
  const { files, programs } = await buildFiles(t, { play: program => program.say({ ok: true, entry }).end() })
  for (const path of ['relative', '/nul\0', `/${'x'.repeat(4095)}`]) await assert.rejects(files.stat({ ...target, path }, { follow: true, signal }), { code: 'invalid_path' })
  await assert.rejects(files.stat({ ...target, path: '/no base64!', pathEncoding: 'base64' }, { follow: true, signal }), { code: 'invalid_path' })
  await files.stat({ ...target, path: Buffer.from('/\xff', 'latin1').toString('base64url'), pathEncoding: 'base64' }, { follow: true, signal })
  assert.equal(programs[0]?.argv.at(-1), Buffer.from('/\xff', 'latin1').toString('base64'))
  await assert.rejects(files.list(target, { limit: 1, cursor: Buffer.from('a/b').toString('base64url'), signal }), { code: 'invalid_cursor' })
})
