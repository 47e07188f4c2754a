/** The programs in examples/, run as a reader would run them. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { SandboxPage } from '../../src/schemas/sandbox.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const run = promisify(execFile)
const example = (name: string) => new URL(`../../examples/${name}`, import.meta.url).pathname
const timeout = 120_000

async function countSandboxes (daemon: TestDaemon): Promise<number> {
  return (await daemon.request<SandboxPage>('GET', '/v1/sandboxes')).body.items.length
}

test('examples/curl.sh goes through a sandbox\'s life and leaves none', async t => {
  const daemon = await TestDaemon.start(t)
  const { stdout, stderr } = await run(example('curl.sh'), [], { env: daemon.clientEnv, timeout })
  assert.equal(stderr.replace(/^curl: .*\b400\b.*\n/gm, ''), '', 'only the request that is wrong on purpose complains')
  assert.match(stdout, /"exitCode":3,"stdout":"hello from Linux\\n"/)
  assert.match(stdout, /"type":"stdout","data":"line 1\\n/)
  assert.match(stdout, /^working\ndone\n/m)
  assert.match(stdout, /"status":"paused"\n"status":"running"/)
  assert.match(stdout, /"code":"unknown_field"/)
  assert.match(stdout, /"status":"stopped"/)
  assert.equal(await countSandboxes(daemon), 0)
})

test('examples/agent.ts runs its tool calls in a sandbox and leaves none', async t => {
  const daemon = await TestDaemon.start(t)
  const { stdout, stderr } = await run(process.execPath, [example('agent.ts')], { env: { BERTH_URL: daemon.url, BERTH_TOKEN: daemon.token }, timeout })
  assert.equal(stderr, '')
  assert.match(stdout, /\[turn 1\][^]*there is no fib\.sh\n\[exit code 0\]/)
  assert.match(stdout, /\[turn 2\][^]*\n55\n89\n\[exit code 0\]\n\nthe agent is content\n$/)
  assert.equal(await countSandboxes(daemon), 0)
})

test('examples/tasks.ts takes home the results of a batch, and leaves no sandbox', { timeout }, async t => {
  const daemon = await TestDaemon.start(t)
  const { stdout, stderr } = await run(process.execPath, [example('tasks.ts')], { env: { BERTH_URL: daemon.url, BERTH_TOKEN: daemon.token, BATCH: 'b1' }, timeout })
  assert.equal(stderr, '')
  assert.equal(stdout, [
    'queued 4 tasks as b1', '91: failed, exit code 1: 91 = 7 * 13', '97: complete, exit code 0: 97 is prime', '101: complete, exit code 0: 101 is prime', '119: failed, exit code 1: 119 = 7 * 17', '',
  ].join('\n'))
  // The end of a task is told before its sandbox is deleted.
  while (await countSandboxes(daemon) > 0) await delay(20)
})
