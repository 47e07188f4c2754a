/** Children of the daemon: how they start, what they inherit, how they end. */
import assert from 'node:assert/strict'
import { closeSync, openSync, readdirSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { runCommand } from '../../../src/host/command.ts'
import { makePipe } from '../../../src/host/libc.ts'
import { startPiped, startProgram } from '../../../src/host/spawn.ts'

const options = { env: { ONLY: 'this' }, cwd: '/', isSessionLeader: false }

function shell (script: string) {
  return startPiped('/bin/sh', { ...options, argv: ['sh', '-c', script] })
}

/** Zombie children of this process. */
function zombies (): string[] {
  return readdirSync('/proc').filter(name => /^\d+$/.test(name)).filter(pid => {
    try {
      const stat = readStat(pid)
      return stat.parent === process.pid && stat.state === 'Z'
    } catch {
      return false
    }
  })
}

function readStat (pid: string): { state: string, parent: number } {
  const stat = process.getBuiltinModule('fs').readFileSync(`/proc/${pid}/stat`, 'latin1')
  const [state = '', parent = ''] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return { state, parent: Number(parent) }
}

test('a child says its exit code, or the signal that ended it', async () => {
  assert.deepEqual(await shell('exit 7').ended, { exitCode: 7 })
  assert.deepEqual(await shell('kill -TERM $$').ended, { signalNumber: 15 })
})

test('a child reads its input and keeps its outputs apart', async () => {
  const child = shell('cat; echo err >&2')
  const outputs = Promise.all([text(child.stdout), text(child.stderr)])
  child.stdin.end('x'.repeat(1_000_000))
  const [stdout, stderr] = await outputs
  assert.equal(stdout.length, 1_000_000)
  assert.equal(stderr, 'err\n')
})

test('a child has its own environment and directory, and nothing of ours', async () => {
  const kept = openSync('/dev/null', 'r')
  const child = startPiped('/bin/sh', { ...options, cwd: '/proc', argv: ['sh', '-c', 'env -u PWD -u OLDPWD -u SHLVL -u _; pwd; ls /proc/self/fd | wc -l'] })
  child.stdin.end()
  // ls has its three streams and the directory that it reads.
  assert.equal(await text(child.stdout), 'ONLY=this\n/proc\n4\n')
  closeSync(kept)
})

test('a child begins with the default signals: a broken pipe ends it', async () => {
  const child = shell('while :; do echo y; done')
  child.stdout.destroy()
  assert.deepEqual(await child.ended, { signalNumber: 13 })
})

test('a child takes further descriptors, and /dev/null where it gets none', async () => {
  const pipe = makePipe()
  const child = startProgram('/bin/sh', { ...options, argv: ['sh', '-c', 'read line; echo "read=$?" >&3'], stdio: [null, null, null, pipe.writeFd] })
  closeSync(pipe.writeFd)
  const { Socket } = await import('node:net')
  assert.equal(await text(new Socket({ fd: pipe.readFd, readable: true, writable: false })), 'read=1\n')
  assert.deepEqual(await child.ended, { exitCode: 0 })
})

test('a session leader has a session of its own', async () => {
  const script = 'cut -d" " -f6 /proc/$$/stat; echo $$'
  const leader = startPiped('/bin/sh', { ...options, isSessionLeader: true, argv: ['sh', '-c', script] })
  const [session, pid] = (await text(leader.stdout)).trim().split('\n')
  assert.equal(session, pid)
  const [otherSession, otherPid] = (await text(shell(script).stdout)).trim().split('\n')
  assert.notEqual(otherSession, otherPid)
})

test('a program that is not there, or cannot be executed, is refused at once', () => {
  assert.throws(() => startProgram('/nope/nope', { ...options, argv: ['nope'], stdio: [null, null, null] }), { code: 'ENOENT' })
  assert.throws(() => startProgram('/etc', { ...options, argv: ['etc'], stdio: [null, null, null] }), { code: 'EACCES' })
})

test('a signal reaches a child, and one that has ended is left alone', async () => {
  const child = shell('exec sleep 100')
  child.kill('SIGKILL')
  assert.deepEqual(await child.ended, { signalNumber: 9 })
  child.kill('SIGKILL')
})

test('many children at once are all reaped, each with its own code', async () => {
  const ends = await Promise.all(Array.from({ length: 100 }, (_value, index) => shell(`exit ${index}`).ended))
  assert.deepEqual(ends.map(({ exitCode }) => exitCode), Array.from({ length: 100 }, (_value, index) => index))
  assert.deepEqual(zombies(), [])
})

test('no descriptor is lost over many children', async () => {
  const count = () => readdirSync('/proc/self/fd').length
  await runCommand('true', [])
  const before = count()
  for (let round = 0; round < 20; round++) await runCommand('true', [])
  assert.throws(() => startPiped('/nope/nope', { ...options, argv: ['nope'] }))
  assert.equal(count(), before)
})

test('a command is bounded in time and output, and can be given up', async () => {
  assert.equal((await runCommand('sleep', ['100'], { timeoutMs: 50 })).exitCode, 124)
  const { stdout } = await runCommand('head', ['-c', '100000', '/dev/zero'], { maxOutputBytes: 10 })
  assert.equal(stdout.length, 10)
  const given = new AbortController()
  const running = runCommand('sleep', ['100'], { signal: given.signal })
  given.abort(new Error('given up'))
  await assert.rejects(running, /given up/)
  await assert.rejects(runCommand('no-such-program', []), { code: 'program_not_found' })
})

test('a command does not wait for what it leaves behind', async () => {
  const { exitCode, stdout } = await runCommand('sh', ['-c', 'echo before; sleep 5 & exit 3'])
  assert.deepEqual([exitCode, stdout], [3, 'before\n'])
})
