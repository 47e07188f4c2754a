/** Terminals of a real daemon beside the life of their sandbox. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { EventPage } from '../../src/schemas/event.ts'
import type { TerminalPage } from '../../src/schemas/terminal.ts'
import { AttachClient, createTerminal, readTerminal, untilEnded } from '../support/attach-client.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const shell = ['sh', '-i']
const daemon = await TestDaemon.start({ after })

test('terminals end with their sandbox, which shells do not hold up, and are read for as long as it is there', async t => {
  const sandbox = await daemon.create()
  const terminal = await createTerminal(daemon, sandbox.id, { argv: shell })
  const client = await AttachClient.attach(t, daemon, terminal)
  client.type('echo $((6 * 7))-seen\n')
  await client.waitForOutput('42-seen')
  const stopped = await daemon.request<{ status: string }>('POST', `/v1/sandboxes/${sandbox.id}/stop`, { graceMs: 30_000 })
  assert.equal(stopped.body.status, 'stopped', stopped.text)
  assert.equal((await client.waitForEvent('exit')).reason, 'sandbox_ended')
  assert.equal((await untilEnded(daemon, terminal)).end?.reason, 'sandbox_ended')
  const refused = await daemon.request<{ code: string }>('POST', `/v1/sandboxes/${sandbox.id}/terminals`, { argv: shell })
  assert.equal(refused.status, 409)
  assert.equal(refused.body.code, 'invalid_state')
  await daemon.restart('SIGKILL')
  const later = await AttachClient.attach(t, daemon, terminal, { since: 0, role: 'read' })
  await later.waitForEvent('exit')
  assert.match(later.text, /42-seen/)
  const started = await daemon.request('POST', `/v1/sandboxes/${sandbox.id}/start`)
  assert.equal(started.status, 200, started.text)
  const again = await createTerminal(daemon, sandbox.id, { argv: shell })
  const page = await daemon.request<TerminalPage>('GET', `/v1/sandboxes/${sandbox.id}/terminals`)
  assert.deepEqual(page.body.items.map(({ id, status }) => ({ id, status })), [{ id: again.id, status: 'running' }, { id: terminal.id, status: 'ended' }])
  const events = await daemon.request<EventPage>('GET', `/v1/events?sandboxId=${sandbox.id}&limit=100`, undefined, { accept: 'application/json' })
  assert.deepEqual(events.body.items.filter(({ terminalId }) => terminalId === terminal.id).map(({ type }) => type), ['terminal.started', 'terminal.ended'])
  const last = await AttachClient.attach(t, daemon, again)
  await daemon.remove(sandbox.id)
  await last.closed
  assert.deepEqual((await daemon.leftovers()).filter(line => line.includes(sandbox.id)), [])
})

test('a sandbox that is asked to end by itself takes its terminals along', async t => {
  const sandbox = await daemon.create({ entrypoint: ['sh', '-c', 'while [ ! -e /workspace/end ]; do sleep 0.1; done'] })
  const terminal = await createTerminal(daemon, sandbox.id, { argv: shell })
  const client = await AttachClient.attach(t, daemon, terminal)
  client.type('touch /workspace/end\n')
  assert.equal((await client.waitForEvent('exit')).reason, 'sandbox_ended')
  assert.equal((await readTerminal(daemon, terminal)).status, 'ended')
})

test('kill -9 of the daemon while a terminal writes: whoever comes back has every byte once', { timeout: 60_000 }, async t => {
  const { id } = await daemon.create()
  const terminal = await createTerminal(daemon, id, { argv: ['sh', '-c', 'i=0; while [ $i -lt 60 ]; do seq $((i * 300 + 1)) $((i * 300 + 300)); i=$((i + 1)); sleep 0.05; done; exit 6'] })
  let output = ''
  let exitCode: number | undefined
  for (let round = 0; exitCode === undefined; round++) {
    const client = await AttachClient.attach(t, daemon, terminal, { since: output.length })
    if (round < 2) {
      await client.waitFor('it writes', () => client.received > 4000 || client.eventsOf('exit').length > 0 || undefined)
      await daemon.restart('SIGKILL')
      await client.closed
    } else await client.waitForEvent('exit')
    output += client.text
    exitCode = client.eventsOf('exit')[0]?.exitCode
  }
  assert.equal(exitCode, 6)
  assert.equal(output, Array.from({ length: 18_000 }, (_value, index) => `${index + 1}\r\n`).join(''))
})

test('a terminal that was asked for with a key is the same when asked for again by a client of the next daemon', async () => {
  const { id } = await daemon.create()
  const ask = () => daemon.request<{ id: string }>('POST', `/v1/sandboxes/${id}/terminals`, { argv: shell }, { 'idempotency-key': 'once' })
  const first = await ask()
  await daemon.restart('SIGKILL')
  const second = await ask()
  assert.equal(second.body.id, first.body.id)
  const page = await daemon.request<TerminalPage>('GET', `/v1/sandboxes/${id}/terminals`)
  assert.equal(page.body.items.length, 1)
})

test('a sandbox is not idle while somebody looks at one of its terminals, and ends once nobody does', { timeout: 60_000 }, async t => {
  const idleTimeoutMs = 3000
  const { id } = await daemon.create({ idleTimeoutMs })
  const terminal = await createTerminal(daemon, id, { argv: shell })
  const viewer = await AttachClient.attach(t, daemon, terminal, { role: 'read' })
  await delay(2 * idleTimeoutMs)
  assert.equal((await daemon.sandbox(id)).status, 'running')
  await viewer.close()
  assert.equal((await daemon.wait(id, 40_000)).end?.reason, 'idle')
  assert.equal((await untilEnded(daemon, terminal)).end?.reason, 'sandbox_ended')
})
