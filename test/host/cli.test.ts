/** The command line as it is used: bin/berth against a real daemon and real sandboxes. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

const berth = join(import.meta.dirname, '../../bin/berth')
const image = 'berth/base'
const idPattern = /^sbx_[a-z0-9]{20}\n$/
const taskIdPattern = /^tsk_[a-z0-9]{20}\n$/
const startLimitMs = 120_000

interface Ran {
  exitCode: number | null
  stdout: string
  stderr: string
}

let dir: string
let daemon: ChildProcess | undefined
let env: Record<string, string>

function dirFlags (): string[] {
  return ['--state-dir', join(dir, 'state'), '--run-dir', join(dir, 'run'), '--listen', '127.0.0.1:0', '--socket', join(dir, 's')]
}

async function startDaemon (): Promise<void> {
  daemon = spawn(berth, ['serve', ...dirFlags()], { stdio: ['ignore', 'ignore', 'inherit'] })
  const limit = AbortSignal.timeout(startLimitMs)
  while ((await run(['host'])).exitCode !== 0) {
    if (daemon.exitCode !== null || limit.aborted) throw new Error('the daemon did not start')
  }
}

async function endDaemon (signal: NodeJS.Signals): Promise<void> {
  if (!daemon || daemon.exitCode !== null || daemon.signalCode !== null) return
  const exited = once(daemon, 'exit')
  daemon.kill(signal)
  await exited
}

function begin (argv: string[], options: { input?: Buffer, env?: Record<string, string> } = {}) {
  const child = spawn(berth, argv, { env: options.env ?? env, stdio: 'pipe' })
  const chunks: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] }
  child.stdout.on('data', chunk => chunks.stdout.push(chunk))
  child.stderr.on('data', chunk => chunks.stderr.push(chunk))
  child.stdin.on('error', () => {})
  child.stdin.end(options.input)
  const text = (name: 'stdout' | 'stderr') => Buffer.concat(chunks[name]).toString()
  const done: Promise<Ran> = once(child, 'close').then(([exitCode]) => ({ exitCode, stdout: text('stdout'), stderr: text('stderr') }))
  /** Resolves once standard output has the text. */
  const printed = async (wanted: string) => {
    while (!text('stdout').includes(wanted)) {
      if (child.exitCode !== null) throw new Error(`ended without '${wanted}': ${text('stderr')}`)
      await Promise.race([once(child.stdout, 'data'), once(child, 'close')])
    }
  }
  return { child, done, printed }
}

function run (argv: string[], options: Parameters<typeof begin>[1] = {}): Promise<Ran> {
  return begin(argv, options).done
}

/** The end of a task is told before its sandbox is deleted. */
async function noSandboxes (): Promise<void> {
  const limit = AbortSignal.timeout(startLimitMs)
  while ((await run(['ps', '-aq'])).stdout !== '') limit.throwIfAborted()
}

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'berth-cli-'))
  env = { PATH: process.env.PATH ?? '', BERTH_SOCKET: join(dir, 's') }
  await startDaemon()
})

after(async () => {
  await endDaemon('SIGTERM')
  const reclaimed = await run(['serve', ...dirFlags(), '--reclaim-and-exit'])
  await rm(dir, { recursive: true, force: true })
  assert.equal(reclaimed.exitCode, 0, reclaimed.stderr)
})

test('run shows the output of the command, its streams apart, and ends with its exit code', async () => {
  const ran = await run(['run', '--rm', '-e', 'WHO=world', '-w', '/tmp', image, 'sh', '-c', 'echo hello $WHO from $(pwd); echo oops >&2; printf end; exit 7'])
  assert.deepEqual(ran, { exitCode: 7, stdout: 'hello world from /tmp\nend', stderr: 'oops\n' })
  assert.equal((await run(['ps', '-aq'])).stdout, '')
})

test('a command that is not there, and an image that is not there, end with a word about it', async () => {
  const command = await run(['run', '--rm', image, 'no-such-program'])
  assert.notEqual(command.exitCode, 0)
  assert.match(command.stderr, /No such file|not found/)
  const missing = await run(['run', 'oci:/no/such/image', 'true'])
  assert.equal(missing.exitCode, 125)
  assert.match(missing.stderr, /^berth: /)
})

test('Ctrl-C stops the sandbox of run, and the command may say goodbye', async () => {
  const running = begin(['run', '--rm', image, 'sh', '-c', 'trap "echo bye; exit 42" TERM; echo ready; while :; do sleep 0.1; done'])
  await running.printed('ready')
  running.child.kill('SIGINT')
  const ran = await running.done
  assert.equal(ran.stdout, 'ready\nbye\n')
  assert.equal(ran.exitCode, 42)
  assert.equal((await run(['ps', '-aq'])).stdout, '')
})

test('a sandbox that idles takes execs: bytes, exit codes, signals, detached ones', async () => {
  const created = await run(['run', '-l', 'test=execs', image])
  assert.match(created.stdout, idPattern)
  const id = created.stdout.trim()
  const bytes = Buffer.from(Array.from({ length: 256 }, (_value, index) => index))
  const echoed = begin(['exec', '-i', id.slice(4, 16), 'cat'], { input: bytes })
  const got: Buffer[] = []
  echoed.child.stdout.on('data', chunk => got.push(chunk))
  assert.equal((await echoed.done).exitCode, 0)
  assert.deepEqual(Buffer.concat(got), bytes)
  assert.equal((await run(['exec', id, 'sh', '-c', 'exit 9'])).exitCode, 9)
  assert.equal((await run(['exec', id, 'no-such-program'])).exitCode, 127)
  const interrupted = begin(['exec', id, 'sh', '-c', 'trap "exit 42" INT; echo ready; while :; do sleep 0.1; done'])
  await interrupted.printed('ready')
  interrupted.child.kill('SIGINT')
  assert.equal((await interrupted.done).exitCode, 42)
  const detached = (await run(['exec', '-d', id, 'sh', '-c', 'echo far; echo away'])).stdout.trim()
  assert.equal((await run(['logs', '-f', '--exec', detached, id])).stdout, 'far\naway\n')
  assert.equal((await run(['ps', '-q', '--filter', 'label=test=execs'])).stdout, `${id}\n`)
  assert.deepEqual(await run(['rm', id]).then(({ exitCode, stdout }) => [exitCode, stdout]), [125, ''])
  assert.deepEqual(await run(['rm', '-f', id]), { exitCode: 0, stdout: `${id}\n`, stderr: '' })
})

test('create, start, pause, resume, stop, wait and inspect tell one story', async () => {
  const id = (await run(['create', image, 'sleep', '60'])).stdout.trim()
  const status = async () => JSON.parse((await run(['inspect', id])).stdout)[0].status
  assert.equal(await status(), 'created')
  for (const [verb, then] of [['start', 'running'], ['pause', 'paused'], ['resume', 'running']] as const) {
    assert.deepEqual(await run([verb, id]), { exitCode: 0, stdout: `${id}\n`, stderr: '' })
    assert.equal(await status(), then)
  }
  const waiting = run(['wait', id])
  assert.equal((await run(['stop', '-t', '1', id])).exitCode, 0)
  assert.match((await waiting).stdout, /^\d+\n$/)
  assert.match((await run(['ps', '-a'])).stdout, new RegExp(`${id} .*Exited`))
  assert.match((await run(['events'])).stdout, new RegExp(`sandbox.status +${id} .*to=stopped`))
  assert.equal((await run(['rm', id])).exitCode, 0)
})

test('a reader that goes away ends logs quietly', async () => {
  const id = (await run(['run', '-d', image, 'yes'])).stdout.trim()
  const reading = begin(['logs', '-f', id])
  await reading.printed('y\n')
  reading.child.stdout.destroy()
  const ran = await reading.done
  assert.deepEqual([ran.exitCode, ran.stderr], [141, ''])
  await run(['rm', '-f', id])
})

test('run, logs -f and wait go on across a killed daemon, and miss and repeat nothing', async () => {
  const script = 'i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 5'
  const running = begin(['run', '-l', 'test=restart', image, 'sh', '-c', script])
  await running.printed('3\n')
  const id = (await run(['ps', '-q', '--filter', 'label=test=restart'])).stdout.trim()
  const following = begin(['logs', '-f', id])
  const waiting = begin(['wait', id])
  await following.printed('3\n')
  await endDaemon('SIGKILL')
  await startDaemon()
  const expected = Array.from({ length: 60 }, (_value, index) => `${index}\n`).join('')
  const [ran, followed, waited] = await Promise.all([running.done, following.done, waiting.done])
  assert.deepEqual([ran.exitCode, ran.stdout], [5, expected])
  assert.deepEqual([followed.exitCode, followed.stdout], [0, expected])
  assert.equal(waited.stdout, '5\n')
  assert.equal((await run(['rm', id])).exitCode, 0)
})

test('a detached run is a task: its result, its output and its sandbox are right after the daemon was killed under it', async () => {
  const script = 'i=0; until [ -e go ]; do echo $i; i=$((i+1)); sleep 0.05; done; echo went; exit 5'
  const begun = await run(['run', '-d', '--rm', '-l', 'test=task', image, 'sh', '-c', script])
  assert.match(begun.stdout, taskIdPattern)
  const id = begun.stdout.trim()
  const following = begin(['logs', '-f', id.slice(0, 12)])
  const waiting = begin(['task', 'wait', id])
  await following.printed('3\n')
  const [sandbox] = JSON.parse((await run(['ps', '--json', '--filter', 'label=test=task'])).stdout)
  assert.equal(sandbox.taskId, id)
  await endDaemon('SIGKILL')
  await startDaemon()
  assert.deepEqual(await run(['exec', id, 'touch', 'go']), { exitCode: 0, stdout: '', stderr: '' })
  const [followed, waited] = await Promise.all([following.done, waiting.done])
  const lines = followed.stdout.trimEnd().split('\n')
  assert.deepEqual(lines, [...lines.slice(0, -1).map((_line, index) => String(index)), 'went'])
  assert.deepEqual([followed.exitCode, waited.exitCode, waited.stdout], [0, 5, '5\n'])
  const [task] = JSON.parse((await run(['inspect', id])).stdout)
  assert.deepEqual([task.status, task.attempts.length, task.attempts[0].sandboxId], ['failed', 1, sandbox.id])
  assert.equal((await run(['logs', id])).stdout, followed.stdout)
  await noSandboxes()
  assert.deepEqual(await run(['rm', id]), { exitCode: 0, stdout: `${id}\n`, stderr: '' })
})

test('a task is watched to its end over all its attempts, and its bytes come as they are', async () => {
  const ran = begin(['task', 'run', '-a', '--attempts', '2', '--retry-delay', '1ms', '-l', 'test=attempts', image, 'sh', '-c', "printf 'out\\377\\r\\n'; echo err >&2; exit 3"])
  const got: Buffer[] = []
  ran.child.stdout.on('data', chunk => got.push(chunk))
  const { exitCode, stderr } = await ran.done
  assert.deepEqual([exitCode, Buffer.concat(got).toString('latin1'), stderr], [3, 'out\xff\r\n'.repeat(2), 'err\n'.repeat(2)])
  const id = (await run(['task', 'ls', '-aq', '--filter', 'label=test=attempts'])).stdout.trim()
  assert.deepEqual(await run(['task', 'logs', '--stderr', '--attempt', '2', id]), { exitCode: 0, stdout: '', stderr: 'err\n' })
  assert.equal((await run(['task', 'rm', id])).exitCode, 0)
})

test('tasks wait for room or their time, are cancelled there and while they run, and come from a file', async () => {
  const late = (await run(['task', 'run', '--delay', '1h', image, 'true'])).stdout.trim()
  assert.match((await run(['exec', late, 'true'])).stderr, /is still pending and has no sandbox yet/)
  assert.equal((await run(['stop', late])).exitCode, 0)
  const endless = (await run(['run', '-d', image, 'sleep', '600'])).stdout.trim()
  assert.match((await run(['rm', endless])).stderr, /has not ended/)
  assert.equal((await run(['kill', endless])).exitCode, 0)
  assert.equal(JSON.parse((await run(['task', 'inspect', endless])).stdout)[0].status, 'cancelled')
  const lines = Array.from({ length: 3 }, (_value, index) => JSON.stringify({ entrypoint: ['sh', '-c', `echo ${index}; exit ${index}`], labels: { test: 'file' } })).join('\n')
  const ids = (await run(['task', 'run', '--image', image, '--requests-memory', '64m', '--requests-cpus', '0.1', '--file', '-'], { input: Buffer.from(lines) })).stdout.trim().split('\n')
  assert.deepEqual(await run(['task', 'wait', ...ids]), { exitCode: 1, stdout: '0\n1\n2\n', stderr: '' })
  const refused = await run(['run', '-d', 'oci:/no/such/image'])
  assert.equal(refused.exitCode, 125)
  assert.match(refused.stderr, /^berth: the task could not be run \(step image\): /)
  assert.equal((await run(['task', 'rm', late, endless, ...ids, refused.stdout.trim()])).exitCode, 0)
  await noSandboxes()
})

test('host and version know the daemon, which leaves a token for others', async () => {
  const host = JSON.parse((await run(['host', '--json'])).stdout)
  assert.equal(host.status, 'ready')
  const version = JSON.parse((await run(['version', '--json'])).stdout)
  assert.equal(version.server.version, version.client.version)
  const token = (await readFile(join(dir, 'state', 'admin.token'), 'utf8')).trim()
  assert.ok(token.length > 20)
})
