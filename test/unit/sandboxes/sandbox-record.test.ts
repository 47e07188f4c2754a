/** Records on disk: one that cannot be read is never taken for one that is not there, because such a sandbox is removed. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { readExecRecord } from '../../../src/services/execs/exec-record.ts'
import { readRecord } from '../../../src/services/sandboxes/sandbox-record.ts'

async function build (t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-record-'))
  t.after(() => rm(dir, { recursive: true }))
  return dir
}

for (const { name, read } of [{ name: 'a sandbox', read: readRecord }, { name: 'an exec', read: readExecRecord }]) {
  test(`the record of ${name} that is not there, or torn, is none`, async t => {
    const dir = await build(t)
    assert.equal(await read(join(dir, 'missing')), undefined)
    await writeFile(join(dir, 'torn'), '{"version":1,"id"')
    assert.equal(await read(join(dir, 'torn')), undefined)
  })

  test(`the record of ${name} that the host cannot read at the moment is an error`, async t => {
    const dir = await build(t)
    await mkdir(join(dir, 'unreadable'))
    await assert.rejects(async () => await read(join(dir, 'unreadable')), { code: 'EISDIR' })
  })

  test(`the record of ${name} that a later Berth wrote is an error`, async t => {
    const dir = await build(t)
    await writeFile(join(dir, 'later'), '{"version":2,"id":"sbx_x"}')
    await assert.rejects(async () => await read(join(dir, 'later')), { code: 'record_too_new' })
  })
}
