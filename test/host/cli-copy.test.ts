/** berth cp and berth files against a real daemon and a real sandbox. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test, type TestContext } from 'node:test'
import { berth, TestDaemon } from '../support/test-daemon.ts'

const odd = 'line\nbreak \u001b[31mred'

let daemon: TestDaemon
const releases: Array<() => Promise<void>> = []
before(async () => { daemon = await TestDaemon.start({ after: release => { releases.push(release) } }) })
after(async () => { for (const release of releases) await release() })

async function build (t: TestContext) {
  const dir = await mkdtemp(join(tmpdir(), 'berth-copy-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const { id } = await daemon.create()
  /** Runs berth in the directory. */
  const run = (...argv: string[]) => new Promise<{ exitCode: number, stdout: string, stderr: string }>(resolve => {
    execFile(berth, argv, { cwd: dir, env: daemon.clientEnv }, (error, stdout, stderr) => resolve({ exitCode: error ? Number(error.code) : 0, stdout, stderr }))
  })
  const ok = async (...argv: string[]) => {
    const ran = await run(...argv)
    assert.equal(ran.exitCode, 0, ran.stderr)
    return ran.stdout
  }
  return { dir, id, run, ok }
}

test('a tree goes in and comes out by the rules of docker cp, as it was', async t => {
  const { dir, id, run, ok } = await build(t)
  await mkdir(join(dir, 'tree/sub'), { recursive: true })
  await writeFile(join(dir, 'tree', odd), 'odd')
  await writeFile(join(dir, 'tree/sub/script'), Buffer.alloc(300_000, 1))
  await chmod(join(dir, 'tree/sub/script'), 0o750)
  await symlink('/etc/hostname', join(dir, 'tree/link'))
  await ok('cp', 'tree', `${id}:/workspace/made`)
  assert.equal((await daemon.exec(id, ['sh', '-c', 'cd /workspace/made && readlink link && stat -c %a sub/script && cat "$0"', odd])).stdout, '/etc/hostname\n750\nodd')
  await ok('cp', 'tree', `${id}:/workspace/made`)
  await ok('cp', 'tree/.', `${id}:/workspace/made`)
  await ok('cp', `${id}:/workspace/made/tree`, 'back')
  assert.deepEqual((await readdir(join(dir, 'back'))).sort(), [odd, 'link', 'sub'])
  assert.equal(await readlink(join(dir, 'back/link')), '/etc/hostname')
  assert.equal((await lstat(join(dir, 'back/sub/script'))).mode & 0o7777, 0o750)
  assert.deepEqual(await readFile(join(dir, 'back/sub/script')), Buffer.alloc(300_000, 1))
  await ok('cp', `${id}:/workspace/made/tree/`, 'back')
  assert.ok((await readdir(join(dir, 'back'))).includes('tree'))
  await ok('cp', `${id}:/workspace/made/sub/script`, 'one')
  for (const argv of [[`${id}:/workspace/made`, 'one'], ['tree', `${id}:/workspace/made/sub/script`], ['one', `${id}:/workspace/none/`], ['one', `${id}:/none/one`], [`${id}:/none`, '.']]) {
    assert.equal((await run('cp', ...argv)).exitCode, 125, argv.join(' '))
  }
})

test('a directory that becomes a link between two copies leads nowhere', async t => {
  const { dir, id, run, ok } = await build(t)
  await mkdir(join(dir, 'mine'))
  await mkdir(join(dir, 'to'))
  await daemon.exec(id, ['sh', '-c', `mkdir -p /workspace/out && ln -s ${dir}/mine /workspace/out/way && ln -s ${dir}/mine /workspace/name`])
  await ok('cp', `${id}:/workspace/out`, 'to')
  await ok('cp', `${id}:/workspace/name`, 'to')
  await daemon.exec(id, ['sh', '-c', 'cd /workspace && rm out/way name && mkdir out/way name && echo evil > out/way/x && echo evil > name/x'])
  for (const name of ['out', 'name']) {
    const ran = await run('cp', `${id}:/workspace/${name}`, 'to')
    assert.deepEqual([ran.exitCode, /nothing is written through a link/.test(ran.stderr)], [125, true], ran.stderr)
  }
  assert.deepEqual(await readdir(join(dir, 'mine')), [])
})

test('files are listed, read, written, moved and removed', async t => {
  const { dir, id, run, ok } = await build(t)
  await writeFile(join(dir, 'one'), 'hello\n')
  await ok('files', 'put', '-p', '-m', '0600', id, 'one', '/workspace/a/b')
  assert.equal(await ok('files', 'cat', id, '/workspace/a/b'), 'hello\n')
  assert.match(await ok('files', 'ls', id, '/workspace/a'), /^-rw------- {3}berth:berth {3}6 {3}\S+ \S+ {3}b\n$/)
  await ok('files', 'mv', id, '/workspace/a/b', '/workspace/a/c')
  await ok('files', 'get', id, '/workspace/a/c', 'two')
  assert.equal(await readFile(join(dir, 'two'), 'utf8'), 'hello\n')
  assert.equal(await ok('files', 'find', '--text', 'hell', id, '/workspace'), '/workspace/a/c:1:hello\n')
  await ok('files', 'rm', '-r', id, '/workspace/a')
  assert.equal((await run('files', 'stat', id, '/workspace/a')).exitCode, 125)
})
