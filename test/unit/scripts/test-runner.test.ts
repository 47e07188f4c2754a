import { test, type TestContext } from 'node:test'
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const repo = join(import.meta.dirname, '../../..')
const head = 'import { test, describe, it } from "node:test"\n'

/** Runs `npm test` on one file with this text and answers with what it printed. */
function build (t: TestContext, text: string, { args = [], env = {} }: { args?: string[], env?: Record<string, string> } = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'runner-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const file = join(dir, 'sample.test.ts')
  writeFileSync(file, text)
  // Without this node:test takes the inner run for a part of the outer one.
  const { NODE_TEST_CONTEXT: _context, CI: _ci, ...inherited } = process.env
  const { stdout, status } = spawnSync(join(repo, 'bin/node24'), [join(repo, 'scripts/test.ts'), ...args, file], { env: { ...inherited, ...env }, encoding: 'utf8' })
  return { stdout, status, lastLine: stdout.trimEnd().split('\n').at(-1) }
}

// Beside the tests of the file, the look at what is left on the host counts as one.
test('tests are counted, suites are not', (t) => {
  const { lastLine, status } = build(t, `${head}test('a', () => {}); describe('s', () => { it('b', () => {}); it('c', () => {}) })`)
  assert.equal(lastLine, '4 passed, 0 failed')
  assert.equal(status, 0)
})

test('a failing test is named with its reason and fails the run', (t) => {
  const { stdout, lastLine, status } = build(t, `${head}describe('s', () => { it('b', () => { throw new Error('because') }) })`)
  assert.equal(lastLine, '1 passed, 1 failed')
  assert.match(stdout, /✗ s › b.*\n.*because/)
  assert.equal(status, 1)
})

test('a suite whose hook fails counts as failed', (t) => {
  const { lastLine } = build(t, 'import { describe, after, it } from "node:test"\ndescribe("s", () => { after(() => { throw new Error("hook") }); it("b", () => {}) })')
  assert.equal(lastLine, '2 passed, 1 failed')
})

test('a file that crashes counts as failed', (t) => {
  const { stdout, lastLine, status } = build(t, 'throw new Error("on loading")')
  assert.equal(lastLine, '1 passed, 1 failed')
  assert.match(stdout, /runs to its end[^]*on loading/)
  assert.equal(status, 1)
})

test('a file that is killed amid its tests counts as failed', (t) => {
  const { lastLine } = build(t, `${head}test('a', () => {}); test('b', () => { process.kill(process.pid, 'SIGKILL') }); test('c', () => {})`)
  assert.match(lastLine ?? '', /passed, 1 failed$/)
})

test('a file without tests counts as failed', (t) => {
  assert.equal(build(t, 'console.log("no tests here")').lastLine, '1 passed, 1 failed')
})

test('a run in which no test matches counts as failed', (t) => {
  const { lastLine, status } = build(t, `${head}test('a', () => {})`, { args: ['--grep', 'nothing like this'] })
  assert.equal(lastLine, '1 passed, 1 failed')
  assert.equal(status, 1)
})

test('--grep runs the tests whose names match', (t) => {
  assert.equal(build(t, `${head}test('a one', () => {}); test('a two', () => { throw new Error('x') })`, { args: ['--grep', 'one'] }).lastLine, '2 passed, 0 failed')
})

test('a skipped test is named, and fails the run in CI', (t) => {
  const text = `${head}test('a', () => {}); test('b', { skip: 'no reason' }, () => {})`
  const alone = build(t, text)
  assert.equal(alone.lastLine, '2 passed, 0 failed')
  assert.match(alone.stdout, /^skipped: .*sample\.test\.ts: b \(no reason\)$/m)
  assert.equal(build(t, text, { env: { CI: 'true' } }).lastLine, '2 passed, 1 failed')
})

test('a file left behind in the temporary directory fails the run', (t) => {
  const { stdout, lastLine } = build(t, `${head}import { writeFileSync } from 'node:fs'\ntest('a', () => { writeFileSync(process.env.TMPDIR + '/forgotten', '') })`)
  assert.equal(lastLine, '1 passed, 1 failed')
  const [, path = ''] = /temporary file: (\/tmp\/berth-test-\w+)\/forgotten/.exec(stdout) ?? []
  assert.notEqual(path, '')
  rmSync(path, { recursive: true })
})
