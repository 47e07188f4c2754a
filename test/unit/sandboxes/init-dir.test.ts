import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { installInit } from '../../../src/services/sandboxes/sandbox-steps.ts'

test('sandboxes see the host\'s inits, busybox and the program for files, and no other program', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-init-'))
  t.after(() => rm(dir, { recursive: true }))
  const programs = { init: '/bin/true', idle: '/bin/true', busybox: '/bin/true', files: '/bin/true', conmon: '/bin/true' }
  await installInit(dir, programs)
  assert.deepEqual((await readdir(dir)).sort(), ['busybox', 'files', 'idle', 'init'])
})
