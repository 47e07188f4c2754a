import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { mount, tryUnmount } from '../../src/host/libc.ts'
import { findProcess, readArguments } from '../../src/host/process.ts'
import { removeTrees } from '../../src/host/remove.ts'
import { OutputReader } from '../../src/services/terminals/output-reader.ts'
import { encodeFrame } from '../../src/services/terminals/server/pty-frames.ts'
import { frameKinds, inputWindowBytes, type PtyStatus, type Screen } from '../../src/services/terminals/server/pty-protocol.ts'
import { PtyHostRig, until, type PtyClient } from '../support/pty-host-rig.ts'

const shell = ['/bin/bash', '--norc', '--noprofile', '-i']
const seqBytes = 1_488_895

async function keptText (reader: OutputReader): Promise<string> {
  const parts: Buffer[] = []
  for (let offset = await reader.oldest(); ;) {
    const part = await reader.read(offset, Buffer.alloc(300_000))
    if (!part) return Buffer.concat(parts).toString('latin1')
    assert.equal(part.kind, 'bytes')
    if (part.kind === 'bytes') parts.push(part.bytes)
    offset = part.offset + (part.kind === 'bytes' ? part.bytes.length : 0)
  }
}

function assertContiguous (client: PtyClient, id: string): void {
  let next = 0
  for (const { offset, bytes } of client.of(id).pieces) {
    assert.equal(offset, next)
    next += bytes.length
  }
}

test('a burst at exit is complete, sixty times of sixty, in frames and in files', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  const expected = Array.from({ length: 200_000 }, (_, index) => `${index + 1}\r\n`).join('')
  for (let round = 0; round < 15; round++) {
    const ids = await Promise.all([1, 2, 3, 4].map(() => client.create(['/usr/bin/seq', '1', '200000'], { isHeard: false })))
    for (const id of ids) {
      const end = await client.ended(id)
      assert.deepEqual([end.offset, end.exitCode, end.signalNumber], [seqBytes, 0, undefined])
      assert.ok(await keptText(rig.reader(id)) === expected)
      await client.request(id, { op: 'forget' })
      // The thread that keeps screens may be about to write the last.
      await removeTrees([join(rig.root, id)])
    }
  }
  // Half of it is less than what may wait for a client, so that none of it is left out; it begins when it is listened to.
  const id = await client.create(['/bin/sh', '-c', 'read -r go; exec seq 1 100000'])
  client.input(id, '\n')
  await client.ended(id)
  assertContiguous(client, id)
  assert.ok(client.text(id) === `\r\n${expected.slice(0, expected.indexOf('100001\r\n'))}`)
})

test('a terminal is a real one: size, resize, interrupts, exit codes, signals', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  // No shell that edits lines: it loses what is typed ahead of an interrupt.
  const program = 'trap "echo now \\$(stty size)" WINCH; trap "echo interrupted; exit 130" INT; stty size; echo term=$TERM ready; while :; do sleep 0.05; done'
  const id = await client.create(['/bin/bash', '-c', program], { cols: 100, rows: 30 })
  await client.says(id, '30 100\r\nterm=xterm-256color ready')
  await client.request(id, { op: 'resize', cols: 61, rows: 17 })
  await client.says(id, 'now 17 61')
  assert.deepEqual((await client.list()).map(({ cols, rows }) => [cols, rows]), [[61, 17]])
  client.input(id, '\x03')
  await client.says(id, '^Cinterrupted')
  assert.equal((await client.ended(id)).exitCode, 130)
  assert.deepEqual(await rig.reader(id).end(), client.of(id).end)
  const hungUp = await client.create(['/usr/bin/sleep', '1000'])
  await client.request(hungUp, { op: 'hangUp', force: false })
  assert.equal((await client.ended(hungUp)).signalNumber, 1)
  const stubborn = await client.create(['/bin/bash', '-c', 'trap "" HUP; echo ready; sleep 1000 & wait'])
  await client.says(stubborn, 'ready')
  await client.request(stubborn, { op: 'hangUp', force: false })
  await client.request(stubborn, { op: 'hangUp', force: true })
  assert.equal((await client.ended(stubborn)).signalNumber, 9)
  await client.request(stubborn, { op: 'hangUp', force: true })
  await assert.rejects(client.create(['/nowhere/program']), { code: 'program_not_found' })
  await assert.rejects(client.request('trm_00000000000000000000', { op: 'screen' }), { code: 'terminal_not_found' })
})

test('a program inherits nothing of the pty-host', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  await client.create(['/usr/bin/sleep', '1000'])
  const id = await client.create(['/bin/bash', '-c', 'ls /proc/self/fd | wc -w; env | sort | tr "\\n" ,; echo; umask; exit'])
  await client.ended(id)
  // Standard streams, and the directory that ls reads.
  assert.match(client.text(id), /^4\r\n/)
  assert.match(client.text(id), /\nLANG=C.UTF-8,PATH=[^,]*,PWD=\/,SHLVL=\d,TERM=xterm-256color,_=[^,]*,\r\n/)
})

test('bytes of every value come through, and a screen shows what they paint', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  const id = await client.create(['/bin/bash', '-c', 'stty raw -echo; echo ready; exec cat'])
  await client.says(id, 'ready')
  const all = Buffer.from(Array.from({ length: 256 }, (_, value) => value))
  const begin = client.of(id).pieces.reduce((sum, { bytes }) => sum + bytes.length, 0)
  client.input(id, all)
  const heard = () => Buffer.concat(client.of(id).pieces.map(({ bytes }) => bytes)).subarray(begin)
  await until(async () => heard().length >= 256, 'all came back')
  assert.deepEqual(heard(), all)
  client.input(id, '\x1bc\x1b[31mred\x1b[0m grün')
  await client.says(id, 'grün')
  const screen = await client.request<Screen>(id, { op: 'screen' })
  assert.equal(screen.data, '\x1b[31mred\x1b[0m grün')
  assert.equal(screen.offset, (await client.list())[0]?.offset)
})

test('terminals stay when their daemon dies, and the next one finds them and replaces it', async t => {
  const rig = await PtyHostRig.start(t)
  const first = await rig.connect()
  const id = await first.create(shell)
  first.input(id, 'echo one-$((1+1))\n')
  await first.says(id, 'one-2')
  const second = await rig.connect()
  await until(async () => first.isClosed, 'the first is closed')
  const [status] = await second.list() as [PtyStatus]
  assert.equal(status.id, id)
  assert.equal(findProcess(status.pid)?.pid, status.pid)
  const { offset } = await second.request<{ offset: number }>(id, { op: 'subscribe' })
  second.input(id, 'echo two-$((1+1))\n')
  await second.says(id, 'two-2')
  assert.equal(second.of(id).pieces[0]?.offset, offset)
  assert.match(await keptText(rig.reader(id)), /one-2[^]*two-2/)
  // Against the protocol: the connection goes, the terminal does not.
  second.socket.write(encodeFrame(frameKinds.output, id, Buffer.alloc(9)))
  await until(async () => second.isClosed, 'the second is closed')
  const third = await rig.connect()
  assert.equal((await third.list()).length, 1)
})

test('a program that does not read makes others wait for nothing, and its window is kept', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  const stuck = await client.create(['/bin/bash', '-c', 'stty raw -echo; echo ready; sleep 1000'])
  const other = await client.create(shell)
  await client.says(stuck, 'ready')
  client.input(stuck, Buffer.alloc(inputWindowBytes, 'x'))
  client.input(other, 'echo still-$((1+1))\n')
  await client.says(other, 'still-2')
  assert.ok(client.of(stuck).taken < inputWindowBytes)
  client.input(stuck, Buffer.alloc(inputWindowBytes, 'x'))
  await until(async () => client.isClosed, 'the connection is closed')
  const next = await rig.connect()
  await next.request(other, { op: 'subscribe' })
  next.input(other, 'echo again-$((1+1))\n')
  await next.says(other, 'again-2')
  await next.request(stuck, { op: 'hangUp', force: true })
  await next.ended(stuck)
})

test('what a daemon pastes arrives whole, as it is taken', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  const total = 4 * inputWindowBytes
  const id = await client.create(['/bin/bash', '-c', `stty raw -echo; echo ready; head -c ${total} | sha256sum`])
  await client.says(id, 'ready')
  const bytes = Buffer.from(Array.from({ length: total }, (_, index) => (index * 7919) >> 3 & 0xff))
  for (let sent = 0; sent < total;) {
    const room = inputWindowBytes - (sent - client.of(id).taken)
    if (room > 0) client.input(id, bytes.subarray(sent, sent += Math.min(room, 30_000, total - sent)))
    else await once(client.socket, 'data')
  }
  await client.ended(id)
  assert.ok(client.text(id).includes(createHash('sha256').update(bytes).digest('hex')))
  assert.equal(client.of(id).taken, total)
  client.input(id, 'late')
  await until(async () => client.of(id).taken === total + 4, 'what comes too late is taken')
})

test('a daemon that does not read is told how far it is, once, and finds the rest in the files', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  const id = await client.create(['/bin/bash', '-c', 'read; seq 1 1000000; echo the-end; read'], { windowBytes: 16 * 1024 ** 2 })
  client.socket.pause()
  client.input(id, '\n')
  await until(async () => (await rig.reader(id).endOffset()) > 7_888_000, 'all is in the files')
  client.socket.resume()
  await until(async () => client.of(id).advanced.length > 0, 'it is told')
  const [advanced = 0] = client.of(id).advanced
  const heardTo = client.of(id).pieces.reduce((sum, { bytes }) => sum + bytes.length, 0)
  assertContiguous(client, id)
  assert.ok(heardTo < 4 * 1024 ** 2, `${heardTo} bytes waited in the socket`)
  assert.equal(advanced, await rig.reader(id).endOffset())
  assert.match(await keptText(rig.reader(id)), /1000000\r\nthe-end/)
  client.input(id, '\n')
  assert.equal((await client.ended(id)).exitCode, 0)
  assert.equal(client.of(id).advanced.length, 1)
})

test('no more output is kept than was asked for, in files of a quarter, with screens at their beginnings', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  const windowBytes = 64 * 1024
  const id = await client.create(['/bin/bash', '-c', 'for i in $(seq 30); do seq -f "%04.f" 1 1000; sleep 0.02; done'], { windowBytes })
  const end = await client.ended(id)
  assert.equal(end.offset, 30 * 6000)
  const reader = rig.reader(id)
  const oldest = await reader.oldest()
  assert.ok(end.offset - oldest >= windowBytes && end.offset - oldest <= windowBytes * 1.5, `${end.offset - oldest} bytes are kept`)
  assert.deepEqual(await reader.read(0, Buffer.alloc(100)), { kind: 'gap', offset: oldest, bytes: oldest })
  assert.equal(await keptText(reader), client.text(id).slice(oldest))
  await until(async () => (await reader.screenAt(end.offset)) !== undefined, 'the last screen')
  assert.match((await reader.screenAt(end.offset))?.data ?? '', /0999\r\n1000\r\n$/)
  const names = await readdir(join(rig.root, id))
  const offsetsOf = (kind: string) => names.filter(name => name.startsWith(kind)).map(name => Number(name.split('.')[1])).sort((a, b) => a - b)
  for (const offset of offsetsOf('output')) assert.equal(offset % (windowBytes / 4), 0)
  assert.ok(offsetsOf('screen').every(offset => offset >= oldest), names.join())
  assert.ok(offsetsOf('screen').length > 1, names.join())
})

test('a full disk is a gap for readers, and ends nothing', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  const dir = join(rig.root, 'small')
  await mkdir(dir)
  mount('tmpfs', dir, 'tmpfs', 0, 'size=256k')
  try {
    const id = await client.create(['/bin/bash', '-c', 'seq 1 200000; echo full; read; sleep 0.2; echo after; read'], { dir: join(dir, 'trm'), windowBytes: 8 * 1024 ** 2 })
    await client.says(id, 'full')
    assertContiguous(client, id)
    const filler = await readdir(join(dir, 'trm'))
    assert.equal(filler.filter(name => name.startsWith('output')).length, 1)
    mount('tmpfs', dir, 'tmpfs', 32, 'size=4m')
    client.input(id, '\n')
    await client.says(id, 'after')
    const reader = new OutputReader(join(dir, 'trm'))
    const held = await stat(join(dir, 'trm', 'output.0000000000000000'))
    const gap = await reader.read(held.size, Buffer.alloc(1000))
    assert.equal(gap?.kind, 'gap')
    const after = await reader.read(gap?.offset ?? 0, Buffer.alloc(1000))
    assert.match(after?.kind === 'bytes' ? after.bytes.toString() : '', /after/)
    client.input(id, '\n')
    assert.equal((await client.ended(id)).exitCode, 0)
    await until(async () => (await reader.screenAt(client.of(id).end?.offset ?? 0)) !== undefined, 'the last screen')
  } finally {
    await tryUnmount(dir, 2)
  }
})

test('it hangs up all terminals when it is told to end, and the kernel does when it is killed', async t => {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const rig = await PtyHostRig.start(t)
    const client = await rig.connect()
    const ids = await Promise.all([1, 2, 3].map(() => client.create(shell)))
    const identities = (await client.list()).map(({ pid }) => findProcess(pid)!)
    const stubborn = signal === 'SIGTERM' ? await client.create(['/bin/bash', '-c', 'trap "" HUP; echo ready; while :; do sleep 1000; done']) : undefined
    if (stubborn) await client.says(stubborn, 'ready')
    for (const id of ids) {
      client.input(id, 'echo ready-$((1+1))\n')
      await client.says(id, 'ready-2')
    }
    process.kill(rig.pid, signal)
    await until(async () => findProcess(rig.pid) === undefined && identities.every(({ pid }) => findProcess(pid) === undefined), 'all are gone')
    for (const id of [...ids, ...(stubborn ? [stubborn] : [])]) {
      const end = await rig.reader(id).end()
      assert.equal(end?.signalNumber, signal === 'SIGKILL' ? undefined : id === stubborn ? 9 : 1)
    }
  }
})

test('it ends when its directory is gone', async t => {
  const rig = await PtyHostRig.start(t)
  const client = await rig.connect()
  await client.create(['/usr/bin/sleep', '1000'])
  const [status] = await client.list() as [PtyStatus]
  await until(async () => readArguments(status.pid).slice(0, 2).join(' ') === '/usr/bin/sleep 1000', 'the program is what was forked for it')
  await rm(rig.dir, { recursive: true })
  await until(async () => findProcess(rig.pid) === undefined && findProcess(status.pid) === undefined, 'it has ended')
})
