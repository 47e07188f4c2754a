/** Terminals as a person at one has them: bin/berth at a pseudo-terminal, a real daemon, real programs inside. */
import assert from 'node:assert/strict'
import { after, before, test, type TestContext } from 'node:test'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import type { Terminal, TerminalPage } from '../../src/schemas/terminal.ts'
import { PersonTerminal } from '../support/person-terminal.ts'
import { TestDaemon } from '../support/test-daemon.ts'

let daemon: TestDaemon
let id: string
const releases: Array<() => Promise<void>> = []

before(async () => {
  daemon = await TestDaemon.start({ after: release => { releases.push(release) } })
  id = (await daemon.create()).id
})
after(async () => { for (const release of releases) await release() })

const person = (t: TestContext) => PersonTerminal.open(t, daemon.clientEnv)

async function terminals (sandboxId = id): Promise<Terminal[]> {
  const { body } = await daemon.request<TerminalPage>('GET', `/v1/sandboxes/${sandboxId}/terminals`)
  return body.items
}

/** Detaches, and answers the id of the terminal that the person was told of. */
async function detach (here: PersonTerminal, ended: () => Promise<number>): Promise<string> {
  here.type('\u0010\u0011')
  const told = await here.sees(/berth attach sbx_\w+ trm_[a-z0-9]{20}/)
  assert.equal(await ended(), 0)
  return told.split(' ')[3]!
}

test('exec -it has job control, Ctrl-C, sizes and an exit code, and leaves nothing', async t => {
  const here = await person(t)
  const before = await here.settings()
  const ended = here.begin(`berth exec -it -e PS1='in''> ' ${id} sh`)
  await here.sees('in> ')
  here.type('stty size\r')
  await here.sees('30 90')
  here.resize(101, 33)
  here.type('sleep 0.3; stty size\r')
  await here.sees('33 101')
  await here.sees('in> ')
  here.type('sh -c "echo ready-\\$((1 + 1)); sleep 1000"\r')
  await here.sees('ready-2')
  here.type('\u001a')
  await here.sees('Stopped')
  here.type('jobs\r')
  await here.sees(/\[1\].*Stopped.*sleep/)
  here.type('fg\r')
  await here.sees('sleep 1000')
  await here.typeUntil('\u0003', 'in> ')
  here.type('echo still-$((40 + 2))\r')
  await here.sees('still-42')
  here.type('exit 7\r')
  assert.equal(await ended(), 7)
  here.resize(90, 30)
  assert.equal(await here.settings(), before)
  assert.deepEqual(await terminals(), [])
})

test('without a command it is the shell of the user, and a program that is not there ends with 127', async t => {
  const here = await person(t)
  const ended = here.begin(`berth exec -it ${id}`)
  await here.sees(/[$#] /)
  here.type('echo $((6 * 7)); exit 3\r')
  await here.sees('42')
  assert.equal(await ended(), 3)
  assert.equal(await here.begin(`berth exec -it ${id} no-such-program`)(), 127)
  for (const { id: left } of await terminals()) await daemon.request('DELETE', `/v1/sandboxes/${id}/terminals/${left}`)
})

test('detached from it runs on; attached to again it is painted, and ends with its code', async t => {
  const here = await person(t)
  const before = await here.settings()
  const ended = here.begin(`berth exec -it -e PS1='in''> ' ${id} sh`)
  await here.sees('in> ')
  // The alternate screen, the mouse and bracketed pasting, as an editor leaves them while it runs.
  here.type("printf '\\033[?1049h\\033[?1000h\\033[?2004h'; echo marker-$((20 + 3))\r")
  await here.sees('marker-23')
  const terminal = await detach(here, ended)
  const resets = ['?1000l', '?2004l', '?1049l'].map(mode => here.shown.lastIndexOf(`\u001b[${mode}`))
  assert.ok(resets[0]! > 0 && resets[0]! < resets[1]! && resets[1]! < resets[2]!, 'what it set is taken back, the alternate screen last')
  assert.equal(await here.settings(), before)
  assert.deepEqual((await terminals()).map(one => [one.id, one.status]), [[terminal, 'running']])
  const again = here.begin(`berth attach ${id} ${terminal.slice(0, 12)}`)
  await here.sees('marker-23')
  here.type('exit 9\r')
  assert.equal(await again(), 9)
  assert.equal(await here.settings(), before)
  assert.equal(await here.begin(`berth terminal rm ${id} ${terminal}`)(), 0)
})

test('signals to the client give the terminal back, and leave the program running', async t => {
  const here = await person(t)
  const before = await here.settings()
  for (const [signal, exitCode] of [['SIGTERM', 143], ['SIGHUP', 129], ['SIGINT', 130]] as const) {
    const ended = here.begin(`berth exec -it -e PS1='in''> ' ${id} sh`)
    await here.sees('in> ')
    process.kill(await here.foreground(), signal)
    assert.equal(await ended(), exitCode, signal)
    assert.equal(await here.settings(), before, signal)
  }
  const running = await terminals()
  assert.deepEqual(running.map(({ status }) => status), ['running', 'running', 'running'])
  assert.equal(await here.begin(`berth attach ${id}`)(), 125)
  await here.sees('').then(() => assert.match(here.shown, /3 terminals run in/))
  assert.equal(await here.begin(`berth terminal rm ${id} ${running.map(one => one.id).join(' ')}`)(), 0)
})

test('a daemon that is killed is waited for, and what was written meanwhile comes', async t => {
  const here = await person(t)
  const ended = here.begin(`berth exec -it ${id} sh -c 'i=0; while [ $i -lt 60 ]; do i=$((i + 1)); echo count-$i.; sleep 0.1; done; exit 5'`)
  await here.sees('count-5.')
  await daemon.end('SIGKILL')
  await here.sees('connection lost')
  await daemon.start()
  assert.equal(await ended(), 5)
  const counts = [...here.shown.matchAll(/count-(\d+)\./g)].map(([, number]) => Number(number))
  assert.deepEqual(counts, Array.from({ length: 60 }, (_value, index) => index + 1))
})

test('one who only looks types nothing, and leaves by Ctrl-C', async t => {
  const here = await person(t)
  const { body } = await daemon.request<Terminal>('POST', `/v1/sandboxes/${id}/terminals`, { argv: ['sh', '-c', 'echo look-here; read line; echo "got $line"'], name: 'shared' })
  const ended = here.begin(`berth attach --read-only ${id} shared`)
  await here.sees('look-here')
  here.type('nothing\r')
  here.type('\u0003')
  assert.equal(await ended(), 0)
  assert.doesNotMatch(here.shown, /got nothing/)
  assert.equal((await terminals())[0]?.status, 'running')
  await daemon.request('DELETE', `/v1/sandboxes/${id}/terminals/${body.id}`)
})

test('run -it makes a sandbox for the command; --rm deletes it afterwards, unless it was detached from', async t => {
  const here = await person(t)
  const sandboxes = async () => (await daemon.request<{ items: Sandbox[] }>('GET', '/v1/sandboxes?status=running')).body.items.map(one => one.id).filter(one => one !== id)
  const ended = here.begin('berth run -it --rm berth/base sh -c "stty size; read x; exit 4"')
  await here.sees('30 90')
  here.type('\r')
  assert.equal(await ended(), 4)
  assert.deepEqual(await sandboxes(), [])
  const again = here.begin("berth run -it --rm -e PS1='in''> ' berth/base sh")
  await here.sees('in> ')
  await detach(here, again)
  const [left] = await sandboxes()
  assert.match(here.shown, new RegExp(`${left} is left as it is`))
  await daemon.remove(left!)
})
