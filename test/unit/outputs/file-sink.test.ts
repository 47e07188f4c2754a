import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFile, link, mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import type { OutputSpec } from '../../../src/schemas/output.ts'
import { openFileSink } from '../../../src/services/outputs/file-sink.ts'
import { SinkRefusal, type OutputEntry, type SinkState } from '../../../src/services/outputs/output-sink.ts'

async function build (t: TestContext) {
  const root = await mkdtemp(join(tmpdir(), 'berth-file-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  const dir = join(root, 'outputs')
  return {
    dir,
    path: (name: string) => join(dir, name),
    read: (name: string) => readFile(join(dir, name)),
    open: (taskId: string, spec: Partial<OutputSpec> = {}, state: SinkState = undefined, index = 0) => openFileSink({ taskId, spec: { type: 'file', ...spec }, index, state }, dir),
  }
}

const entry = (seq: number, data: string | Buffer, more: Partial<OutputEntry> = {}): OutputEntry =>
  ({ seq, cursor: `0:${seq}`, at: 'then', stream: 'stdout', data: Buffer.from(data), isLineEnd: true, ...more })

test('text is the very bytes of both streams; the file is named after the task and not for everybody', async t => {
  const { open, read, path } = await build(t)
  const sink = await open('tsk_a')
  await sink.write([entry(0, 'a\r'), entry(1, Buffer.from([0xff, 0]), { stream: 'stderr' }), entry(2, 'half', { isLineEnd: false })])
  assert.deepEqual(await sink.write([entry(3, 'gone', { isGap: true })]), { size: 28 })
  await sink.close()
  assert.deepEqual(await read('tsk_a.log'), Buffer.concat([Buffer.from('a\r\n'), Buffer.from([0xff, 0, 0x0a]), Buffer.from('half--- gap: gone ---\n')]))
  assert.equal((await stat(path('tsk_a.log'))).mode & 0o777 & ~0o640, 0)
})

test('ndjson is an entry a line', async t => {
  const { open, read } = await build(t)
  const sink = await open('tsk_a', { format: 'ndjson' })
  await sink.write([entry(0, 'é'), entry(1, Buffer.from([0xff]), { isLineEnd: false, stream: 'stderr' }), entry(2, 'gone', { isGap: true })])
  await sink.close()
  assert.deepEqual(String(await read('tsk_a.ndjson')).trimEnd().split('\n').map(text => JSON.parse(text)), [
    { task_id: 'tsk_a', seq: 0, time: 'then', stream: 'stdout', data: 'é', line_end: true },
    { task_id: 'tsk_a', seq: 1, time: 'then', stream: 'stderr', data: '/w==', encoding: 'base64', line_end: false },
    { task_id: 'tsk_a', seq: 2, time: 'then', stream: 'stdout', data: 'gone', line_end: true, gap: true },
  ])
})

test('what was written and not confirmed is cut off when it is opened again', async t => {
  const { open, read, path } = await build(t)
  const first = await open('tsk_a')
  const state = await first.write([entry(0, 'one')])
  await first.write([entry(1, 'two')])
  await first.close()
  const second = await open('tsk_a', {}, state)
  await second.write([entry(1, 'two')])
  await second.close()
  assert.equal(String(await read('tsk_a.log')), 'one\ntwo\n')
  const third = await open('tsk_a')
  await third.close()
  assert.equal(String(await read('tsk_a.log')), '', 'without a place everything comes again')
  // Whoever cuts or removes the file wants what comes, not what was.
  await writeFile(path('tsk_a.log'), 'x')
  const fourth = await open('tsk_a', {}, { size: 100 })
  assert.deepEqual(await fourth.write([entry(9, 'more')]), { size: 6 })
  await fourth.close()
  assert.equal(String(await read('tsk_a.log')), 'xmore\n')
})

test('a name belongs to the output that has it first, until the file is removed', async t => {
  const { open, read, path } = await build(t)
  await (await open('tsk_a', { name: 'build.log' })).close()
  await assert.rejects(open('tsk_b', { name: 'build.log' }), SinkRefusal)
  await assert.rejects(open('tsk_a', { name: 'build.log' }, undefined, 1), SinkRefusal)
  const outcomes = await Promise.allSettled(['tsk_c', 'tsk_d', 'tsk_e'].map(id => open(id, { name: 'race.log' })))
  assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1)
  for (const outcome of outcomes) if (outcome.status === 'fulfilled') await outcome.value.close()
  await appendFile(path('strange.log'), 'of somebody else')
  await assert.rejects(open('tsk_a', { name: 'strange.log' }), SinkRefusal)
  assert.equal(String(await read('strange.log')), 'of somebody else')
  await rm(path('build.log'))
  await (await open('tsk_b', { name: 'build.log' })).close()
})

test('nothing but plain files is written to, and only in the output directory', async t => {
  const { open, dir, path } = await build(t)
  await (await open('tsk_a')).close()
  const outside = join(dir, '..', 'outside')
  await writeFile(outside, 'as it was')
  await symlink(outside, path('link.log'))
  await symlink(join(dir, '..', 'absent'), path('dangling.log'))
  await mkdir(path('dir.log'))
  execFileSync('mkfifo', [path('fifo.log')])
  for (const name of ['link.log', 'dangling.log', 'dir.log', 'fifo.log', '../outside', '.owners', 'a/b', '']) {
    await assert.rejects(open('tsk_a', { name }), SinkRefusal, name)
  }
  // Put in the place of a file that is the task's own.
  for (const put of [() => symlink(outside, path('tsk_a.log')), () => link(outside, path('tsk_a.log')), () => mkdir(path('tsk_a.log'))]) {
    await rm(path('tsk_a.log'), { recursive: true })
    await put()
    await assert.rejects(open('tsk_a'), SinkRefusal)
  }
  assert.equal(String(await readFile(outside)), 'as it was')
  assert.ok(!(await readdir(join(dir, '..'))).includes('absent'))
})

test('a file that cannot be written is no refusal, and its path is not told', async t => {
  const { dir } = await build(t)
  await writeFile(dir, 'no directory')
  await assert.rejects(openFileSink({ taskId: 'tsk_a', spec: { type: 'file' }, index: 0, state: undefined }, dir),
    (error: Error) => !(error instanceof SinkRefusal) && error.message === 'the file cannot be written at the moment (ENOTDIR)')
})
