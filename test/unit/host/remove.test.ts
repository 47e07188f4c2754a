import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { lstat, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { removeTrees } from '../../../src/host/remove.ts'

async function makeDirectory (t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-test-'))
  t.after(() => rm(dir, { recursive: true, force: true, maxRetries: 5 }))
  return dir
}

test('trees go, links in them lead nowhere, and what is missing is fine', async t => {
  const dir = await makeDirectory(t)
  await writeFile(join(dir, 'kept'), 'kept')
  await mkdir(join(dir, 'tree/a/b'), { recursive: true })
  await symlink(join(dir, 'kept'), join(dir, 'tree/a/link'))
  await symlink(dir, join(dir, 'tree/up'))
  await removeTrees([join(dir, 'tree'), join(dir, 'never was')])
  assert.equal(existsSync(join(dir, 'tree')), false)
  assert.ok((await lstat(join(dir, 'kept'))).isFile())
  await removeTrees([])
})

test('a tree to which files are added meanwhile goes too, once they are', async t => {
  const dir = await makeDirectory(t)
  const tree = join(dir, 'tree')
  await mkdir(tree)
  // So many that it takes a while to empty the directory; the writer adds one a millisecond until it has no place or made them all.
  await Promise.all(Array.from({ length: 3000 }, (_, index) => writeFile(join(tree, `old-${index}`), '')))
  const program = 'echo begun; for i in {1..200}; do : > "$1/$i" || exit 0; read -rt 0.001 <> <(:); done'
  const writer = spawn('/bin/bash', ['-c', program, 'writer', tree], { stdio: ['ignore', 'pipe', 'ignore'] })
  const ended = once(writer, 'exit')
  await once(writer.stdout, 'data')
  await removeTrees([tree])
  await ended
  assert.equal(existsSync(tree), false)
})
