import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { buildAttachRig, outputOf, until } from './attach-rig.ts'

test('output comes as the bytes it is, events as JSON, in their order; exit closes with 1000', async t => {
  const rig = await buildAttachRig(t)
  const { attachment, frames, closed } = await rig.attach('?since=5')
  assert.deepEqual(attachment.options, { role: 'write', since: 5, cols: undefined, rows: undefined })
  const ready = { type: 'ready', offset: 5, role: 'write', status: 'running', cols: 80, rows: 24 } as const
  const bytes = randomBytes(300_000)
  await attachment.viewer.sendEvent(ready)
  await attachment.viewer.sendOutput(bytes)
  await attachment.viewer.sendEvent({ type: 'resize', cols: 100, rows: 30 })
  await attachment.viewer.sendOutput(Buffer.from([0xff, 0x00]))
  await attachment.end({ type: 'exit', reason: 'exited', exitCode: 3 })
  assert.deepEqual(await closed, { code: 1000, reason: '' })
  assert.deepEqual(frames, [ready, bytes, { type: 'resize', cols: 100, rows: 30 }, Buffer.from([0xff, 0x00]), { type: 'exit', reason: 'exited', exitCode: 3 }])
})

test('input and sizes reach the terminal in their order', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment } = await rig.attach('?cols=120&rows=40')
  assert.deepEqual(attachment.options, { role: 'write', since: undefined, cols: 120, rows: 40 })
  const sent = [Buffer.from('ls\r'), Buffer.from([0x03]), randomBytes(500_000)]
  for (const bytes of sent) socket.send(bytes)
  socket.send(JSON.stringify({ type: 'resize', cols: 90, rows: 20 }))
  await until(() => attachment.sizes.length > 0)
  assert.deepEqual(attachment.sizes, [[90, 20]])
  assert.deepEqual(attachment.written, sent)
})

test('a command that is none is told so, and the socket stays open', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, frames, hasSeen } = await rig.attach()
  const bad = [
    'resize', '', 'null', '[]', '{}', '{"type":"resize"}', '{"type":"resize","cols":80}', '{"type":"resize","cols":0,"rows":1}', '{"type":"resize","cols":1001,"rows":1}',
    '{"type":"resize","cols":"80","rows":24}', '{"type":"resize","cols":80.5,"rows":24}', '{"type":"resize","cols":80,"rows":24,"force":true}', '{"type":"input","data":"x"}',
    `{"type":"resize","cols":80,"rows":24,"x":"${'y'.repeat(100_000)}"}`,
  ]
  for (const text of bad) socket.send(text)
  socket.send('{"type":"resize","cols":81,"rows":25}')
  await hasSeen(bad.length)
  await until(() => attachment.sizes.length > 0)
  assert.deepEqual(attachment.sizes, [[81, 25]])
  for (const frame of frames) assert.equal('code' in frame && frame.code, 'invalid_command')
  assert.deepEqual(attachment.written, [])
})

test('what the terminal refuses is told; what goes wrong inside closes, and tells nothing', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, frames, hasSeen, closed } = await rig.attach()
  attachment.taking = async () => { throw new BerthError('conflict', 'terminal_ended', 'it has ended') }
  socket.send(Buffer.from('x'))
  await hasSeen(1)
  assert.deepEqual(frames, [{ type: 'error', code: 'terminal_ended', message: 'it has ended' }])
  attachment.taking = async () => { throw new Error('EIO: /var/lib/secret') }
  socket.send(Buffer.from('x'))
  assert.deepEqual(await closed, { code: 1011, reason: 'internal' })
  assert.doesNotMatch(JSON.stringify(frames), /secret/)
  const broken = await rig.attach()
  await broken.attachment.end(new Error('EIO: /var/lib/secret'))
  assert.deepEqual(await broken.closed, { code: 1011, reason: 'internal' })
  assert.equal(attachment.signal?.aborted, true)
})

test('too large a message closes with 1009, one of a megabyte does not', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, closed } = await rig.attach()
  const whole = Buffer.alloc(1024 ** 2, 'x')
  socket.send(whole)
  await until(() => attachment.written.length > 0)
  assert.ok(attachment.written[0]!.equals(whole))
  socket.send(Buffer.alloc(1024 ** 2 + 1))
  assert.equal((await closed).code, 1009)
  await attachment.over
  assert.equal(attachment.written.length, 1)
})

test('a client that only looks is told so once in a while, whatever it sends, and nothing of it arrives', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, frames, closed } = await rig.attach('?role=read')
  assert.equal(attachment.options.role, 'read')
  for (let n = 0; n < 1000; n++) {
    socket.send(Buffer.from('rm -rf /\r'))
    socket.send('{"type":"resize","cols":1,"rows":1}')
  }
  socket.ping()
  await once(socket, 'pong')
  await attachment.end()
  await closed
  const notices = frames.filter(frame => 'code' in frame && frame.code === 'read_only')
  assert.ok(notices.length > 0 && notices.length < 100, `${notices.length} notices`)
  assert.equal(frames.length, notices.length + 1)
  assert.deepEqual([attachment.written, attachment.sizes], [[], []])
})

test('while the terminal takes no input nothing more is read; none is lost, and the client is not given up', async t => {
  const rig = await buildAttachRig(t)
  const accepted = once(rig.app.server, 'connection') as Promise<[Socket]>
  const { socket, attachment, closed, hasSeen } = await rig.attach()
  const [connection] = await accepted
  const gate = Promise.withResolvers<void>()
  attachment.taking = () => gate.promise
  const piece = randomBytes(64 * 1024)
  const pieces = 512
  for (let n = 0; n < pieces; n++) socket.send(piece)
  await until(() => attachment.written.length > 0)
  // Output comes all the same.
  await attachment.viewer.sendOutput(Buffer.from('echo'))
  await hasSeen(1)
  await settled(() => connection.bytesRead)
  assert.equal(attachment.written.length, 1)
  assert.ok(connection.bytesRead < 1024 ** 2, `${connection.bytesRead} bytes were read`)
  gate.resolve()
  await until(() => attachment.written.length === pieces)
  assert.ok(attachment.written.every(bytes => bytes.equals(piece)))
  await attachment.end()
  assert.equal((await closed).code, 1000)
})

test('an end is heard of though input waits', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, closed } = await rig.attach()
  attachment.taking = () => new Promise(() => {})
  for (let n = 0; n < 3; n++) socket.send(Buffer.from('x'))
  await until(() => attachment.written.length > 0)
  await attachment.end()
  assert.equal((await closed).code, 1000)
  assert.equal(attachment.written.length, 1)
  const other = await rig.attach()
  other.attachment.taking = () => new Promise(() => {})
  other.socket.send(Buffer.from('x'))
  await until(() => other.attachment.written.length > 0)
  other.socket.terminate()
  await other.attachment.over
})

test('nothing is said behind the exit', async t => {
  const rig = await buildAttachRig(t)
  const { socket, attachment, frames, closed } = await rig.attach()
  socket.pause()
  for (let n = 0; n < 200; n++) void attachment.viewer.sendOutput(Buffer.alloc(64 * 1024))
  const ended = attachment.end()
  socket.send('what?')
  socket.send(Buffer.from('too late'))
  await new Promise(resolve => setTimeout(resolve, 50))
  socket.resume()
  await ended
  await closed
  assert.deepEqual(frames.at(-1), { type: 'exit', reason: 'exited', exitCode: 0 })
  assert.equal(outputOf(frames).length, 200 * 64 * 1024)
  assert.deepEqual(attachment.written, [])
})

test('a client that takes nothing holds a little of the output, and is cut off', async t => {
  const rig = await buildAttachRig(t, { followerStallMs: 300 })
  const { socket, attachment, closed } = await rig.attach()
  socket.pause()
  const chunk = Buffer.alloc(64 * 1024)
  let sent = 0
  while (!attachment.signal!.aborted) {
    await attachment.viewer.sendOutput(chunk)
    sent++
  }
  // The kernel's buffers take some megabytes.
  assert.ok(sent < 512, `${sent} chunks were sent`)
  await attachment.over
  socket.resume()
  await closed
})

test('frames go undeflated, unless the client asks for more than browsers do unasked', async t => {
  const rig = await buildAttachRig(t)
  const text = Buffer.from('the same again\r\n'.repeat(10_000))
  const receivedBy = async (query: string) => {
    const upgraded = Promise.withResolvers<Socket>()
    const { socket, attachment, frames, closed } = await rig.attach(query, {
      perMessageDeflate: true,
      finishRequest: request => request.once('upgrade', ({ socket }) => upgraded.resolve(socket)).end(),
    })
    await attachment.viewer.sendOutput(text)
    const small = Buffer.from('x'.repeat(1000))
    await attachment.viewer.sendOutput(small)
    await attachment.end()
    await closed
    assert.deepEqual(outputOf(frames), Buffer.concat([text, small]))
    const { bytesRead } = await upgraded.promise
    return { bytesRead, extensions: socket.extensions }
  }
  const plain = await receivedBy('')
  assert.equal(plain.extensions, '')
  assert.ok(plain.bytesRead > text.length)
  const deflated = await receivedBy('?deflate=true')
  assert.match(deflated.extensions, /permessage-deflate/)
  // The small frame goes as it is.
  assert.ok(deflated.bytesRead > 1000 && deflated.bytesRead < text.length / 2, `${deflated.bytesRead}`)
})

test('a daemon that ends says so, and lets the terminals go', async t => {
  const rig = await buildAttachRig(t)
  const { attachment, closed, frames } = await rig.attach()
  await rig.close()
  assert.deepEqual(await closed, { code: 1001, reason: 'host_stopping' })
  await attachment.over
  assert.deepEqual(frames, [])
})

/** Until a number stays as it is for a while. */
async function settled (read: () => number): Promise<void> {
  let last = NaN
  for (let same = 0; same < 20; same = read() === last ? same + 1 : 0) {
    last = read()
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}
