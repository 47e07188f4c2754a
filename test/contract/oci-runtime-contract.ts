/** What every OciRuntime promises. Programs are written in the few words that the fake's shell knows too. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../src/errors.ts'
import type { AttachedProcess, ContainerPlaces, ExecPlaces } from '../../src/host/oci-runtime.ts'
import { isAlive } from '../../src/host/process.ts'
import type { ProcessRequest } from '../../src/host/oci-spec.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { placeExec, processOf, readLog, waitForExit, waitForLine, waitForStatus, type RuntimeRig, type Teardown } from './runtime-rig.ts'

const counter = ['sh', '-c', 'while :; do echo tick; sleep 0.05; done']

export function testOciRuntime (name: string, build: (t: Teardown) => Promise<RuntimeRig>): void {
  testContainers(name, build)
  testSignals(name, build)
  testAttachedExecs(name, build)
  testMonitoredExecs(name, build)
}

function testContainers (name: string, build: (t: Teardown) => Promise<RuntimeRig>): void {
  test(`${name}: a container goes from created to running to stopped, and leaves its exit code and its log`, async t => {
    const { runtime, create } = await build(t)
    const places = await create(['sh', '-c', 'echo one; echo two >&2; echo three; exit 7'])
    assert.equal(await runtime.status(places.id), 'created')
    assert.deepEqual(await readLog(places.logPath, 'stdout'), [], 'nothing runs before the start')
    await runtime.start(places.id)
    assert.equal(await waitForExit(places, places.id), 7)
    await waitForStatus(runtime, places.id, ['stopped'])
    assert.deepEqual(await readLog(places.logPath, 'stdout'), ['one', 'three'])
    assert.deepEqual(await readLog(places.logPath, 'stderr'), ['two'])
  })

  test(`${name}: a container can be created and started at once`, async t => {
    const { runtime, run } = await build(t)
    const places = await run(['sh', '-c', 'echo one; exit 7'])
    assert.equal(await waitForExit(places, places.id), 7)
    await waitForStatus(runtime, places.id, ['stopped'])
    assert.deepEqual(await readLog(places.logPath, 'stdout'), ['one'])
  })

  test(`${name}: without a program a container idles under its init`, async t => {
    const { runtime, create } = await build(t)
    const places = await create()
    await runtime.start(places.id)
    assert.equal(await runtime.status(places.id), 'running')
    assert.equal((await run(runtime, places, ['true'])).exitCode, 0)
    assert.equal(await runtime.status(places.id), 'running')
  })

  test(`${name}: what does not exist has no status, and ending or deleting it is fine`, async t => {
    const { runtime } = await build(t)
    assert.equal(await runtime.status('sbx_none'), undefined)
    await runtime.kill('sbx_none', 'KILL', { all: true })
    await runtime.delete('sbx_none')
    await assert.rejects(runtime.start('sbx_none'))
    await assert.rejects(runtime.pause('sbx_none'))
    await assert.rejects(runtime.resume('sbx_none'))
  })

  test(`${name}: the list has what exists, and deleting twice is fine`, async t => {
    const { runtime, create } = await build(t)
    const [first, second] = [await create(), await create(['true'])]
    await runtime.start(second.id)
    await waitForExit(second, second.id)
    await waitForStatus(runtime, second.id, ['stopped'])
    assert.deepEqual((await runtime.list()).sort(), [first.id, second.id].sort())
    await runtime.delete(second.id)
    await runtime.delete(second.id)
    assert.deepEqual(await runtime.list(), [first.id])
    assert.equal(await runtime.status(second.id), undefined)
  })

  test(`${name}: a paused container stands still, and goes on`, async t => {
    const { runtime, create } = await build(t)
    const places = await create(counter)
    await runtime.start(places.id)
    await waitForLine(places.logPath, 'tick')
    await runtime.pause(places.id)
    assert.equal(await runtime.status(places.id), 'paused')
    const before = await settledLength(places.logPath)
    // A counter that runs would move on 10 times in this while.
    assert.equal(await pollUntil(async () => (await readLog(places.logPath, 'stdout')).length !== before, 500), false, 'nothing is written while it is paused')
    await runtime.resume(places.id)
    assert.equal(await runtime.status(places.id), 'running')
    assert.ok(await pollUntil(async () => (await readLog(places.logPath, 'stdout')).length > before, 60_000))
  })
}

function testSignals (name: string, build: (t: Teardown) => Promise<RuntimeRig>): void {
  test(`${name}: a signal to one reaches the program through its init`, async t => {
    const { runtime, create } = await build(t)
    const places = await create(['sh', '-c', 'trap "echo bye; exit 3" TERM; echo ready; while :; do sleep 0.05; done'])
    await runtime.start(places.id)
    await waitForLine(places.logPath, 'ready')
    await runtime.kill(places.id, 'TERM')
    assert.equal(await waitForExit(places, places.id), 3)
    await waitForLine(places.logPath, 'bye')
  })

  test(`${name}: SIGKILL to all ends a container that ignores SIGTERM, with 137`, async t => {
    const { runtime, create } = await build(t)
    const places = await create(['sh', '-c', 'trap "" TERM; echo ready; while :; do sleep 0.05; done'])
    await runtime.start(places.id)
    await waitForLine(places.logPath, 'ready')
    await runtime.kill(places.id, 'KILL', { all: true })
    assert.equal(await waitForExit(places, places.id), 137)
    await waitForStatus(runtime, places.id, ['stopped'])
    await runtime.kill(places.id, 'KILL', { all: true })
    await runtime.kill(places.id, 'TERM')
  })

  test(`${name}: SIGKILL to all ends a container that was never started`, async t => {
    const { runtime, create } = await build(t)
    const places = await create(counter)
    await runtime.kill(places.id, 'KILL', { all: true })
    await waitForExit(places, places.id)
    await waitForStatus(runtime, places.id, ['stopped', undefined])
  })
}

function testAttachedExecs (name: string, build: (t: Teardown) => Promise<RuntimeRig>): void {
  test(`${name}: an attached exec reads its input, keeps its outputs apart, and says its exit code`, async t => {
    const { runtime, places } = await idle(t, build)
    assert.deepEqual(await run(runtime, places, ['sh', '-c', 'echo out; echo err >&2; exit 5']), { exitCode: 5, stdout: 'out\n', stderr: 'err\n' })
    assert.deepEqual(await run(runtime, places, ['cat'], 'some input'), { exitCode: 0, stdout: 'some input', stderr: '' })
    assert.deepEqual(await run(runtime, places, ['false']), { exitCode: 1, stdout: '', stderr: '' })
  })

  test(`${name}: an attached exec that a signal ends says which`, async t => {
    const { runtime, places } = await idle(t, build)
    const { exitCode, signal } = await run(runtime, places, ['sh', '-c', 'kill -KILL $$'])
    assert.deepEqual({ exitCode, signal }, { exitCode: 137, signal: 'SIGKILL' })
  })

  test(`${name}: an exec that cannot start is refused in words for the client`, async t => {
    const { runtime, places } = await idle(t, build)
    for (const { argv, cwd, code } of refusals) {
      await assert.rejects(run(runtime, places, argv, '', { cwd }), refusal(code), `attached: ${argv.join(' ')}`)
      await assert.rejects(runMonitored(runtime, places, argv, { cwd }), refusal(code), `monitored: ${argv.join(' ')}`)
    }
    assert.equal((await run(runtime, places, ['true'])).exitCode, 0)
  })

  test(`${name}: an exec in a container that does not run is refused`, async t => {
    const { runtime, create } = await build(t)
    const places = await create(['true'])
    await runtime.start(places.id)
    await waitForExit(places, places.id)
    await waitForStatus(runtime, places.id, ['stopped'])
    await assert.rejects(run(runtime, places, ['true']), refusal('sandbox_not_running'))
    await assert.rejects(runMonitored(runtime, places, ['true']), refusal('sandbox_not_running'))
    await runtime.delete(places.id)
    await assert.rejects(run(runtime, places, ['true']), refusal('sandbox_not_running'))
  })

  test(`${name}: a signal to an attached exec reaches the process inside`, async t => {
    const { runtime, places } = await idle(t, build)
    const exec = await placeExec(places)
    const attached = await runtime.exec(exec, processOf(['sh', '-c', 'trap "echo got it; exit 9" USR1; echo ready; while :; do sleep 0.05; done']))
    const stdout = collect(attached.child.stdout)
    await stdout.saw('ready')
    await runtime.signalExec(exec, 'SIGUSR1')
    assert.deepEqual(await attached.ended, { exitCode: 9 })
    await stdout.saw('got it')
    await runtime.signalExec(exec, 'SIGKILL')
  })
}

function testMonitoredExecs (name: string, build: (t: Teardown) => Promise<RuntimeRig>): void {
  test(`${name}: a monitored exec leaves its log and its exit code`, async t => {
    const { runtime, places } = await idle(t, build)
    const { exec, monitor } = await runMonitored(runtime, places, ['sh', '-c', 'echo out; echo err >&2; sleep 0.2; exit 6'])
    assert.ok(isAlive(monitor), 'a monitor of its own watches it')
    assert.equal(await waitForExit(exec, places.id), 6)
    assert.deepEqual(await readLog(exec.logPath, 'stdout'), ['out'])
    assert.deepEqual(await readLog(exec.logPath, 'stderr'), ['err'])
    assert.ok(await pollUntil(async () => !isAlive(monitor), 60_000), 'the monitor leaves')
    assert.equal(await runtime.status(places.id), 'running')
  })

  test(`${name}: a signal to a monitored exec reaches the process inside, and one that ended is fine`, async t => {
    const { runtime, places } = await idle(t, build)
    const { exec } = await runMonitored(runtime, places, ['sh', '-c', 'echo ready; sleep 600'])
    await waitForLine(exec.logPath, 'ready')
    await runtime.signalExec(exec, 'SIGKILL')
    assert.equal(await waitForExit(exec, places.id), 137)
    await runtime.signalExec(exec, 'SIGTERM')
    assert.equal(await runtime.status(places.id), 'running')
  })

  test(`${name}: monitored execs end with their container`, async t => {
    const { runtime, places } = await idle(t, build)
    const { exec, monitor } = await runMonitored(runtime, places, ['sh', '-c', 'echo ready; sleep 600'])
    await waitForLine(exec.logPath, 'ready')
    await runtime.kill(places.id, 'KILL', { all: true })
    await waitForExit(places, places.id)
    assert.ok(await pollUntil(async () => !isAlive(monitor), 60_000), 'its monitor leaves')
  })
}

const refusals = [
  { argv: ['no-such-program'], code: 'command_not_found' },
  { argv: ['/no/such/program'], code: 'command_not_found' },
  { argv: ['/etc/plain'], code: 'command_not_executable' },
  { argv: ['/etc'], code: 'command_not_executable' },
  { argv: ['true'], cwd: '/no/such/directory', code: 'working_dir_not_found' },
]

function refusal (code: string): (error: unknown) => boolean {
  return error => {
    assert.ok(error instanceof BerthError, `a BerthError: ${String(error)}`)
    assert.equal(error.code, code)
    return true
  }
}

/** A container that idles, running. */
async function idle (t: Teardown, build: (t: Teardown) => Promise<RuntimeRig>) {
  const { runtime, create } = await build(t)
  const places = await create()
  await runtime.start(places.id)
  return { runtime, places }
}

async function run (runtime: RuntimeRig['runtime'], container: ContainerPlaces, argv: readonly string[], input = '', request: Partial<ProcessRequest> = {}) {
  const attached = await runtime.exec(await placeExec(container), processOf(argv, dropUndefined(request)))
  const [stdout, stderr] = [collect(attached.child.stdout), collect(attached.child.stderr)]
  attached.child.stdin?.on('error', () => {})
  attached.child.stdin?.end(input)
  const [end, out, err] = await Promise.all([attached.ended, stdout.all, stderr.all])
  return { ...end, stdout: out, stderr: err }
}

async function runMonitored (runtime: RuntimeRig['runtime'], container: ContainerPlaces, argv: readonly string[], request: Partial<ProcessRequest> = {}) {
  const exec: ExecPlaces = await placeExec(container)
  return { exec, ...await runtime.execMonitored(exec, processOf(argv, dropUndefined(request))) }
}

function dropUndefined (request: Partial<ProcessRequest>): Partial<ProcessRequest> {
  return Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined))
}

/** Reads a stream: all of it, or until it has said something. */
function collect (stream: AttachedProcess['child']['stdout']): { all: Promise<string>, saw: (text: string) => Promise<void> } {
  let text = ''
  stream?.setEncoding('utf8').on('data', chunk => { text += chunk })
  const all = new Promise<string>(resolve => { stream?.once('close', () => resolve(text)) })
  return { all, saw: async wanted => { assert.ok(await pollUntil(async () => text.includes(wanted), 60_000), `it says ${wanted}`) } }
}

/** How many lines a log has once what was under way when it was asked has arrived. */
async function settledLength (logPath: string): Promise<number> {
  let length = (await readLog(logPath, 'stdout')).length
  while (await pollUntil(async () => (await readLog(logPath, 'stdout')).length !== length, 200)) length = (await readLog(logPath, 'stdout')).length
  return length
}
