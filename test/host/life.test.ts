/** A sandbox's life over REST, on the real runtime. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Sandbox, SandboxCreate } from '../../src/schemas/sandbox.ts'
import { runtimePid } from '../support/host-surgery.ts'
import { TestDaemon } from '../support/test-daemon.ts'

test('a sandbox runs its program and says how it ended', async t => {
  const daemon = await TestDaemon.start(t)
  const { id, timings } = await daemon.create({ entrypoint: ['sh', '-c', 'echo out; echo err >&2; exit 7'] })
  assert.deepEqual(timings.map(({ step }) => step), ['image', 'files', 'network', 'disk', 'rootfs', 'cgroup', 'bundle', 'container'])
  const { status, end } = await daemon.wait(id)
  assert.equal(status, 'stopped')
  assert.equal(end?.reason, 'exited')
  assert.equal(end?.exitCode, 7)
  const log = await daemon.request('GET', `/v1/sandboxes/${id}/logs?stream=stdout`)
  assert.equal(log.text, 'out\n')
})

test('a sandbox goes through every verb, and execs run in it', async t => {
  const daemon = await TestDaemon.start(t)
  const { id, status } = await daemon.create({ start: false })
  assert.equal(status, 'created')
  const verb = async (name: string, body?: unknown) => (await daemon.request<{ status: string, code?: string }>('POST', `/v1/sandboxes/${id}/${name}`, body))
  assert.equal((await verb('start')).body.status, 'running')
  const { stdout, exitCode } = await daemon.exec(id, ['sh', '-c', 'id -u; echo kept > /workspace/f; dmesg | grep -c gVisor'])
  assert.equal(stdout, '1000\n1\n')
  assert.equal(exitCode, 0)
  assert.equal((await verb('pause')).body.status, 'paused')
  assert.equal((await verb('pause')).body.code, 'invalid_state')
  assert.equal((await verb('resume')).body.status, 'running')
  assert.equal((await verb('stop', { graceMs: 2000 })).body.status, 'stopped')
  assert.equal((await verb('start')).body.status, 'running')
  assert.equal((await daemon.exec(id, ['cat', '/workspace/f'])).stdout, 'kept\n')
  await daemon.remove(id)
  assert.ok((await daemon.sandbox(id)).deletedAt)
  assert.deepEqual(await daemon.leftovers().then(left => left.filter(line => line.includes(id))), [])
})

for (const runtime of ['runsc', 'runc'] as const) {
  test(`what is paused can be ended in every way, and is gone then (${runtime})`, async t => {
    const daemon = await TestDaemon.start(t)
    const pause = async (input: Partial<SandboxCreate> = {}) => {
      const { id } = await daemon.create({ runtime, ...input })
      const { body } = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/pause`)
      assert.equal(body.status, 'paused')
      return id
    }
    const [forced, asked, busy, killed, kept, reclaimed] = await Promise.all([pause(), pause(), pause({ entrypoint: ['sleep', '1000'] }), pause(), pause(), pause()])
    for (const [id, body] of [[forced, { force: true }], [asked, { graceMs: 2000 }]] as const) {
      const stopped = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/stop`, body)
      assert.deepEqual([stopped.body.status, stopped.body.end?.reason], ['stopped', 'requested'], stopped.text)
      const started = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/start`)
      assert.equal(started.body.status, 'running', started.text)
    }
    await daemon.remove(busy)
    process.kill(await runtimePid(daemon, killed), 'SIGKILL')
    // A frozen process dies when it is thawed: runc's stays as it is until it is ended here.
    if (runtime === 'runsc') await daemon.wait(killed)
    await daemon.remove(killed)
    await daemon.restart('SIGKILL')
    assert.equal((await daemon.sandbox(kept)).status, 'paused')
    await daemon.remove(kept)
    for (const id of [busy, killed, kept]) assert.deepEqual((await daemon.leftovers()).filter(line => line.includes(id)), [])
    await daemon.end('SIGKILL')
    assert.equal(await daemon.reclaim(), 0, `with ${reclaimed} as it was`)
  })
}

test('kill -9 of the daemon loses nothing', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ entrypoint: ['sh', '-c', 'i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 5'] })
  const idle = await daemon.create()
  const detached = await daemon.request<{ id: string }>('POST', `/v1/sandboxes/${idle.id}/execs`, { argv: ['sh', '-c', 'sleep 1; echo done; exit 4'], detach: true })
  assert.equal(detached.status, 201, detached.text)
  await daemon.restart('SIGKILL')
  const { end } = await daemon.wait(id)
  assert.equal(end?.exitCode, 5)
  const log = await daemon.request('GET', `/v1/sandboxes/${id}/logs`)
  assert.equal(log.text, Array.from({ length: 40 }, (_value, index) => `line ${index}\n`).join(''))
  const exec = await daemon.request<{ exitCode: number, status: string }>('GET', `/v1/sandboxes/${idle.id}/execs/${detached.body.id}?wait=true&timeoutMs=20000`)
  assert.equal(exec.body.exitCode, 4, exec.text)
  assert.equal((await daemon.exec(idle.id, ['echo', 'alive'])).stdout, 'alive\n')
})
