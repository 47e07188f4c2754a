/** The words of sd_notify, heard by a socket of the kind that systemd has. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test, type TestContext } from 'node:test'
import { ServiceManager } from '../../../src/host/service-manager.ts'
import { pollUntil } from '../../../src/lib/poll.ts'

const receiver = `
import json, socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('\\0' + name[1:] if name.startswith('@') else name)
print(json.dumps('listening'), flush=True)
while True: print(json.dumps(s.recv(65536).decode()), flush=True)
`

/** What comes in at a socket of this name, message by message. */
async function listen (t: TestContext, name: string): Promise<string[]> {
  const child = spawn('python3', ['-c', receiver, name], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.after(async () => {
    const ended = once(child, 'exit')
    if (child.kill('SIGKILL')) await ended
  })
  const heard: string[] = []
  createInterface({ input: child.stdout }).on('line', line => { heard.push(JSON.parse(line) as string) })
  assert.ok(await pollUntil(async () => heard.length > 0, 20_000), 'the receiver did not start')
  return heard
}

const failing = { onError: (error: Error) => { throw error } }

for (const kind of ['a path', 'an abstract name']) {
  test(`a service manager at ${kind} hears that the service is ready, lives and stops`, async t => {
    const dir = await mkdtemp(join(tmpdir(), 'berth-notify-'))
    t.after(() => rm(dir, { recursive: true, force: true }))
    const name = kind === 'a path' ? join(dir, 'notify') : `@${dir}`
    const heard = await listen(t, name)
    const manager = new ServiceManager({ environment: { NOTIFY_SOCKET: name, WATCHDOG_USEC: '40000', WATCHDOG_PID: String(process.pid) }, ...failing })
    let isHealthy = true
    manager.notifyReady('127.0.0.1:7070\nREADY=0')
    const stop = manager.startWatchdog(() => isHealthy)
    t.after(stop)
    const beats = () => heard.filter(message => message === 'WATCHDOG=1').length
    assert.ok(await pollUntil(async () => beats() >= 3, 20_000))
    assert.equal(heard[1], 'READY=1\nSTATUS=127.0.0.1:7070 READY=0')
    isHealthy = false
    manager.notifyStopping(1500)
    assert.ok(await pollUntil(async () => heard.includes('STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=1500000'), 20_000))
    const before = beats()
    manager.notifyStatus('last')
    assert.ok(await pollUntil(async () => heard.includes('STATUS=last'), 20_000))
    assert.equal(beats(), before)
  })
}

test('without a service manager nothing is said, and a watchdog for another process is none of ours', async t => {
  const errors: Error[] = []
  const options = { onError: (error: Error) => { errors.push(error) } }
  const none = new ServiceManager({ environment: {}, ...options })
  none.notifyReady()
  none.startWatchdog()()
  assert.equal(none.isThere, false)
  const gone = new ServiceManager({ environment: { NOTIFY_SOCKET: '/nowhere/notify', WATCHDOG_USEC: '1000', WATCHDOG_PID: '1' }, ...options })
  t.after(gone.startWatchdog())
  assert.deepEqual(errors, [])
  gone.notifyReady()
  assert.match(String(errors[0]), /could not be told: sendto: ENOENT/)
})
