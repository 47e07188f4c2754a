import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { parseSyncReport, readExitCode, readMonitorPid, reopenLog, RuntimeRefusal } from '../../../src/host/conmon.ts'

test('the report of a start is the pid', () => {
  assert.equal(parseSyncReport('{"data": 4711}'), 4711)
})

test('a negative report is the runtime\'s refusal, in its words', () => {
  assert.throws(() => parseSyncReport('{"data": -1, "message": "  runc create failed: no such file\\n"}'), (error: unknown) => {
    assert.ok(error instanceof RuntimeRefusal)
    assert.equal(error.message, 'runc create failed: no such file')
    return true
  })
  assert.throws(() => parseSyncReport('{"message": "no number"}'), RuntimeRefusal)
  assert.throws(() => parseSyncReport('{"data": -1}'), RuntimeRefusal)
})

test('a monitor that ended without a report is no refusal of the runtime', () => {
  for (const line of ['', '{"data": 47', 'Segmentation fault']) {
    assert.throws(() => parseSyncReport(line), (error: unknown) => error instanceof Error && !(error instanceof RuntimeRefusal), JSON.stringify(line))
  }
})

test('an exit code is read whole or not at all', async t => {
  const dir = await build(t)
  const cases: Array<[string, number | undefined]> = [['0', 0], ['137', 137], ['7\n', 7], ['', undefined], ['x', undefined], ['-1', undefined], ['99999', undefined]]
  for (const [text, exitCode] of cases) {
    await writeFile(join(dir, 'sbx_1'), text)
    assert.equal(await readExitCode(dir, 'sbx_1'), exitCode, JSON.stringify(text))
  }
  assert.equal(await readExitCode(dir, 'sbx_none'), undefined)
})

test('a monitor is found by the pid that it wrote, if that process lives', async t => {
  const dir = await build(t)
  assert.equal(await readMonitorPid(dir), undefined)
  await writeFile(join(dir, 'conmon.pid'), `${process.pid}\n`)
  assert.equal((await readMonitorPid(dir))?.pid, process.pid)
  await writeFile(join(dir, 'conmon.pid'), '')
  assert.equal(await readMonitorPid(dir), undefined)
})

test('asking for another log where no monitor listens answers false', async t => {
  assert.equal(await reopenLog(await build(t)), false)
})

async function build (t: { after: (release: () => Promise<void>) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-conmon-'))
  t.after(() => rm(dir, { recursive: true }))
  return dir
}
