/** Every set-up step, made to fail or to take the daemon with it, before and after its work, taken and given back: nothing is left. */
import assert from 'node:assert/strict'
import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import type { Sandbox, SandboxCreate, SandboxPage } from '../../src/schemas/sandbox.ts'
import type { ErrorBody } from '../../src/schemas/wire.ts'
import { sandboxSteps, type StepParts } from '../../src/services/sandboxes/sandbox-steps.ts'
import { eventually } from '../support/host-surgery.ts'
import { findRemains } from '../support/remains.ts'
import { TestDaemon } from '../support/test-daemon.ts'

// Only the names are asked for: no part is used.
const steps = sandboxSteps({} as StepParts).map(({ name }) => name)
const newestFirst = [...steps].reverse()
const moments = ['before', 'after'] as const

/** A limit on its disk and all that a network may have let a sandbox hold every kind of resource. */
const input = {
  image: 'berth/base',
  resources: { diskBytes: 64 * 1024 ** 2 },
  network: {
    egress: { allow: ['allowed.test', '*.wild.test'], deny: ['forbidden.test'] },
    publish: [{ port: 7000 }, { port: 7000, protocol: 'udp' }],
    bandwidth: { uploadBitsPerSecond: 10_000_000, downloadBitsPerSecond: 10_000_000 },
    gateway: true,
  },
} satisfies SandboxCreate

class FaultyDaemon {
  readonly daemon: TestDaemon
  readonly #journalPath: string

  private constructor (daemon: TestDaemon, journalPath: string) {
    this.daemon = daemon
    this.#journalPath = journalPath
  }

  static async start (t: TestContext): Promise<FaultyDaemon> {
    const dir = await mkdtemp(join(tmpdir(), 'berth-journal-'))
    const journalPath = join(dir, 'journal')
    await appendFile(journalPath, '')
    const command = ['../../bin/node24', '../support/faulty-daemon.ts'].map(path => new URL(path, import.meta.url).pathname)
    const daemon = await TestDaemon.start(t, { command, env: { BERTH_TEST_JOURNAL: journalPath } })
    t.after(() => rm(dir, { recursive: true }))
    return new FaultyDaemon(daemon, journalPath)
  }

  create (fault: string, more: Partial<SandboxCreate> = {}) {
    return this.daemon.request<Sandbox & ErrorBody>('POST', '/v1/sandboxes', { ...input, ...more, labels: { fault } })
  }

  remove (id: string) {
    return this.daemon.request('DELETE', `/v1/sandboxes/${id}?force=true`)
  }

  /** The sandbox that asked for this fault, deleted or not. */
  async find (fault: string): Promise<Sandbox | undefined> {
    const { body } = await this.daemon.request<SandboxPage>('GET', `/v1/sandboxes?deleted=true&label=fault=${fault}`)
    return body.items[0]
  }

  async remains (): Promise<string[]> {
    return await findRemains(this.daemon)
  }

  /** Names of the steps whose call of this phase has begun, in order. */
  async calls (id: string, phase: 'acquire' | 'release'): Promise<string[]> {
    const lines = (await readFile(this.#journalPath, 'utf8')).split('\n').map(line => line.split(' '))
    return lines.filter(words => words[0] === id && words[1] === phase && words[3] === 'begin').map(words => words[2] ?? '')
  }

  async hasStruck (fault: string): Promise<boolean> {
    return (await readFile(this.#journalPath, 'utf8')).includes(` fault ${fault}\n`)
  }

  /** Waits for the end of a daemon that was killed by its fault, and starts the next. */
  async restart (): Promise<void> {
    await this.daemon.restart('SIGKILL')
  }
}

test('a set-up step that fails gives back what the steps before it took, and its own error is what the client sees', async t => {
  const faulty = await FaultyDaemon.start(t)
  const faults = steps.flatMap(step => moments.flatMap(when => [{ step, when, how: 'throw' }, { step, when, how: 'refuse' }]))
  const answers = await Promise.all(faults.map(({ step, when, how }) => faulty.create(`${step}.acquire.${when}.${how}`)))
  for (const [index, { step, when, how }] of faults.entries()) {
    const answer = answers[index]
    const fault = `${step}.acquire.${when}.${how}`
    assert.equal(answer?.status, how === 'refuse' ? 429 : 500, `${fault}: ${answer?.text}`)
    assert.equal(answer?.body.code, how === 'refuse' ? 'fault_injected' : 'setup_failed', fault)
    assert.equal(answer?.body.details?.['step'], step, fault)
    const id = String(answer?.body.details?.['sandboxId'])
    const { status, end, deletedAt, leaks } = await faulty.daemon.sandbox(id)
    assert.deepEqual([status, end?.reason, end?.step, leaks], ['failed', 'setup_failed', step, []], fault)
    assert.ok(deletedAt, `${fault}: nobody was told of the sandbox, so it is gone`)
    assert.deepEqual(await faulty.calls(id, 'acquire'), steps.slice(0, steps.indexOf(step) + 1), fault)
    // Each release is harmless where nothing is held, so all of them run.
    assert.deepEqual(await faulty.calls(id, 'release'), newestFirst, fault)
  }
  assert.deepEqual(await faulty.remains(), [])
})

test('a sandbox that failed to start again stays, holds nothing, and can be started', async t => {
  const faulty = await FaultyDaemon.start(t)
  const runSteps = steps.filter(step => step !== 'image' && step !== 'files')
  const { id } = await faulty.daemon.create(input)
  assert.equal((await faulty.daemon.exec(id, ['sh', '-c', 'echo kept > /workspace/f'])).exitCode, 0)
  for (const step of runSteps) {
    assert.equal((await faulty.daemon.request('POST', `/v1/sandboxes/${id}/stop`, { force: true })).status, 200)
    assert.equal((await faulty.daemon.request('PATCH', `/v1/sandboxes/${id}`, { labels: { fault: `${step}.acquire.after.throw` } })).status, 200)
    const refused = await faulty.daemon.request<ErrorBody>('POST', `/v1/sandboxes/${id}/start`)
    assert.equal(refused.body.details?.['step'], step, refused.text)
    const { status, end } = await faulty.daemon.sandbox(id)
    assert.deepEqual([status, end?.reason, end?.step], ['failed', 'setup_failed', step])
    const held = (await faulty.remains()).filter(line => !line.startsWith('file '))
    assert.deepEqual(held, [], step)
    const started = await faulty.daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/start`)
    assert.equal(started.body.status, 'running', started.text)
    assert.equal((await faulty.daemon.exec(id, ['cat', '/workspace/f'])).stdout, 'kept\n')
  }
  await faulty.daemon.remove(id)
  assert.deepEqual(await faulty.remains(), [])
})

test('a release that fails is named as a leak, the others run, and it is tried again until it is done', async t => {
  const faulty = await FaultyDaemon.start(t)
  const faults = steps.flatMap(step => moments.map(when => ({ step, fault: `${step}.release.${when}.throw` })))
  const created = await Promise.all(faults.map(({ fault }) => faulty.create(fault)))
  for (const answer of created) assert.equal(answer.status, 201, answer.text)
  // What a run holds is given back when it ends, the rest when the sandbox is deleted.
  const isOfRun = (step: string) => step !== 'image' && step !== 'files'
  await Promise.all(faults.map(async ({ step }, index) => {
    const id = created[index]?.body.id ?? ''
    if (isOfRun(step)) await faulty.daemon.request('POST', `/v1/sandboxes/${id}/stop`, { force: true })
    else await faulty.remove(id)
  }))
  for (const [index, { step, fault }] of faults.entries()) {
    const id = created[index]?.body.id ?? ''
    assert.ok(await faulty.hasStruck(fault), fault)
    const { leaks, deletedAt } = await faulty.daemon.sandbox(id)
    assert.deepEqual(leaks.map(leak => leak.step), [step], fault)
    assert.equal(deletedAt, undefined, fault)
    const released = (await faulty.calls(id, 'release')).slice(isOfRun(step) ? 0 : -steps.length)
    assert.deepEqual(released, isOfRun(step) ? newestFirst.filter(isOfRun) : newestFirst, fault)
  }
  for (const [index, { step }] of faults.entries()) {
    const id = created[index]?.body.id ?? ''
    await eventually(async () => (await faulty.daemon.sandbox(id)).leaks.length === 0, `the keeper has released ${step}`)
  }
  assert.deepEqual((await faulty.remains()).filter(line => !line.startsWith('file ')), [])
  await Promise.all(created.map(({ body }) => faulty.remove(body.id)))
  assert.deepEqual(await faulty.remains(), [])
})

test('a daemon killed in any set-up step leaves nothing that the next one does not give back', async t => {
  const faulty = await FaultyDaemon.start(t)
  for (const step of steps) {
    for (const when of moments) {
      const fault = `${step}.acquire.${when}.kill`
      await assert.rejects(faulty.create(fault), fault)
      await faulty.restart()
      assert.ok(await faulty.hasStruck(fault), fault)
      const sandbox = await faulty.find(fault)
      assert.ok(sandbox?.deletedAt, `${fault}: ${JSON.stringify(sandbox)}`)
      assert.deepEqual([sandbox.end?.reason, sandbox.end?.step, sandbox.leaks], ['setup_failed', 'daemon', []], fault)
      assert.deepEqual(await faulty.remains(), [], fault)
    }
  }
})

test('a daemon killed in any release leaves nothing that the next one does not give back', async t => {
  const faulty = await FaultyDaemon.start(t)
  for (const step of steps) {
    for (const when of moments) {
      const fault = `${step}.release.${when}.kill`
      const { body, status, text } = await faulty.create(fault, { entrypoint: ['sleep', '1000'] })
      assert.equal(status, 201, text)
      await assert.rejects(faulty.remove(body.id), fault)
      await faulty.restart()
      assert.ok(await faulty.hasStruck(fault), fault)
      const sandbox = await faulty.daemon.sandbox(body.id)
      assert.ok(sandbox.deletedAt, `${fault}: ${JSON.stringify(sandbox)}`)
      assert.deepEqual([sandbox.end?.reason, sandbox.leaks], ['requested', []], fault)
      assert.deepEqual(await faulty.remains(), [], fault)
    }
  }
})
