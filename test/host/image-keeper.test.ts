/** The keeper of the image server, with shells in the server's place. Needs root and /dev/fuse. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { connectionGoneExitCode, endImageKeeper, findImageKeeper, startImageKeeper } from '../../src/host/image-keeper.ts'
import { isAlive, killProcess, signalProcess, type ProcessIdentity } from '../../src/host/process.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { findLeftovers } from '../support/leftovers.ts'

const keeperPath = new URL('../../libexec/image-keeper', import.meta.url).pathname

for (const shell of ['dash', 'busybox']) {
  test(`${shell}: a server inherits /dev/fuse and memory without a name, and nothing else`, async t => {
    const { keeper, lines, fdsOf, memoryBefore } = await build(t, shell, 'echo $$; echo secret >&4; exec sleep 1000')
    const server = Number((await lines(1))[0])
    await pollUntil(async () => (await readFile(`/proc/${server}/comm`, 'utf8')) === 'sleep\n', 5000)
    for (const pid of [keeper.pid, server]) {
      const fds = await fdsOf(pid)
      assert.deepEqual([...fds.keys()].filter(fd => fd < 10), [0, 1, 2, 3, 4], `${pid}`)
      assert.equal(fds.get(3), '/dev/fuse')
      assert.match(fds.get(4) ?? '', /^\/dev\/shm\/.* \(deleted\)$/)
      assert.equal((await readFile(`/proc/${pid}/oom_score_adj`, 'utf8')).trim(), lowestOomScore())
    }
    assert.equal((await fdsOf(server)).size, 5)
    assert.equal((await stat(`/proc/${keeper.pid}/fd/4`)).mode & 0o777, 0o600)
    assert.equal(await readFile(`/proc/${keeper.pid}/fd/4`, 'utf8'), 'secret\n')
    assert.deepEqual(await readdir('/dev/shm'), memoryBefore)
  })

  test(`${shell}: a dead server is followed by the next, with its number and what the first one left`, async t => {
    const { keeper, lines } = await build(t, shell, 'if [ $1 = 1 ]; then echo secret >&4; echo $1; kill -KILL $$; fi; echo "$1 $(cat < /proc/self/fd/4)"; exec sleep 1000')
    assert.deepEqual(await lines(2), ['1', '2 secret'])
    assert.ok(isAlive(keeper))
  })

  test(`${shell}: a server that dies again and again is started again, and the keeper stays`, async t => {
    const { keeper, lines } = await build(t, shell, 'echo $1; exit 1')
    assert.deepEqual(await lines(3), ['1', '2', '3'])
    signalProcess(keeper, 'SIGHUP')
    signalProcess(keeper, 'SIGINT')
    assert.equal((await lines(4))[3], '4')
    await endImageKeeper(keeper)
    assert.equal(isAlive(keeper), false)
  })

  test(`${shell}: SIGTERM ends the server, then the keeper`, async t => {
    const { keeper, lines } = await build(t, shell, 'trap "echo ended; exit 0" TERM; echo up; while :; do sleep 0.05; done')
    await lines(1)
    await endImageKeeper(keeper)
    assert.equal(isAlive(keeper), false)
    assert.deepEqual(await lines(2), ['up', 'ended'])
  })

  test(`${shell}: a server that will not end is killed`, async t => {
    const { keeper, lines } = await build(t, shell, 'trap "" TERM; echo $$; while :; do sleep 0.1; done')
    const [server] = await lines(1)
    await endImageKeeper(keeper)
    assert.equal(isAlive(keeper), false)
    await assert.rejects(stat(`/proc/${server}`))
  })

  test(`${shell}: a server that says that its mount is gone ends the keeper`, async t => {
    const { keeper, dir, lines } = await build(t, shell, `echo up; [ $1 = 2 ] || exit 1; until [ -e "$0/gone" ]; do sleep 0.02; done; exit ${connectionGoneExitCode}`)
    await lines(2)
    await writeFile(join(dir, 'gone'), '')
    assert.ok(await pollUntil(async () => !isAlive(keeper), 5000))
    assert.equal(await findImageKeeper(dir), undefined)
  })
}

test('a keeper is found again by its directory, and a stranger with its pid is not', async t => {
  const { keeper, dir, lines } = await build(t, 'dash', 'echo up; exec sleep 1000')
  await lines(1)
  assert.deepEqual(await findImageKeeper(dir), keeper)
  await writeFile(join(dir, 'keeper.pid'), `${process.pid}\n`)
  assert.equal(await findImageKeeper(dir), undefined)
  await writeFile(join(dir, 'keeper.pid'), `${keeper.pid}\n`)
})

test('a keeper that cannot start is a typed error', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-keeper-'))
  t.after(() => rm(dir, { recursive: true }))
  const options = { keeperPath: '/bin/false', dir, command: ['/bin/true'], logPath: join(dir, 'log') }
  await assert.rejects(startImageKeeper(options), { kind: 'unavailable', code: 'image_server_unavailable' })
})

/** What a process of ours may lower its score to: only some roots may. */
function lowestOomScore (): string {
  return execFileSync('sh', ['-c', 'echo -1000 > /proc/self/oom_score_adj; read -r score < /proc/self/oom_score_adj; echo "$score"'], { encoding: 'utf8', stdio: 'pipe' }).trim()
}

interface Rig {
  keeper: ProcessIdentity
  dir: string
  /** The first lines of what the servers have written, waited for. */
  lines: (count: number) => Promise<string[]>
  fdsOf: (pid: number) => Promise<Map<number, string>>
  memoryBefore: string[]
}

/** A keeper, run by one shell, whose server is a script. */
async function build (t: TestContext, shell: string, script: string): Promise<Rig> {
  const memoryBefore = await readdir('/dev/shm')
  const dir = await mkdtemp(join(tmpdir(), 'berth-keeper-'))
  const path = join(dir, 'image-keeper')
  await writeFile(path, (await readFile(keeperPath, 'utf8')).replace('#!/bin/sh\n', shell === 'dash' ? '#!/bin/dash\n' : '#!/bin/busybox sh\n'), { mode: 0o700 })
  const logPath = join(dir, 'log')
  const keeper = await startImageKeeper({ keeperPath: path, dir, command: ['/bin/sh', '-c', script, dir], logPath })
  t.after(async () => {
    await endImageKeeper(keeper)
    const left = () => findLeftovers({ dir, hostId: '' })
    for (const line of await left()) if (line.startsWith('process ')) killProcess(Number(line.split(' ')[1]))
    assert.ok(await pollUntil(async () => (await left()).length === 0, 5000), (await left()).join('\n'))
    await rm(dir, { recursive: true })
  })
  const written = async () => (await readFile(logPath, 'utf8')).split('\n').filter(line => line !== '' && !/^image-keeper: |^Killed/.test(line))
  return {
    keeper,
    dir,
    memoryBefore,
    lines: async count => {
      assert.ok(await pollUntil(async () => (await written()).length >= count, 15_000), (await written()).join('\n'))
      return await written()
    },
    fdsOf: async pid => {
      const names = await readdir(`/proc/${pid}/fd`)
      const entries = await Promise.all(names.map(async name => [Number(name), await readlink(`/proc/${pid}/fd/${name}`)] as const))
      return new Map(entries.sort(([a], [b]) => a - b))
    },
  }
}
