import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { buildSocketRig, bytesOf, untilClosed, type Message } from '../../support/socket-rig.ts'

const exec = `exe_${'e'.repeat(20)}`

test('a log is followed to its end: both streams, what is not UTF-8, how it ended', async t => {
  const rig = await buildSocketRig(t)
  const log = rig.makeLog(rig.sandbox.id).write(['one', 'grüße\r', ''])
  const socket = rig.open(rig.pathTo())
  const first = once(socket, 'message')
  const following = untilClosed(socket)
  await first
  log.write([Buffer.from([0xff, 0x00])], 'stderr').end(3)
  const { messages, code, reason } = await following
  assert.deepEqual([code, reason], [1000, ''])
  assert.deepEqual(messages.at(-1), { type: 'end', reason: 'exited', exitCode: 3 })
  const [output] = messages
  assert.deepEqual({ ...output, cursor: '' }, { type: 'output', cursor: '', time: '2026-03-01T09:30:00.000000000+00:00', stream: 'stdout', data: 'one\ngrüße\r\n\n' })
  assert.deepEqual(bytesOf(messages, 'stderr'), Buffer.from([0xff, 0x00, 0x0a]))
})

test('coming back with any cursor gives just the rest', async t => {
  const rig = await buildSocketRig(t)
  const lines = Array.from({ length: 40 }, (_, n) => n % 3 === 0 ? Buffer.from([0xe2, n, 0x82]) : `line ${n} …`)
  const log = rig.makeLog(rig.sandbox.id)
  for (const [n, line] of lines.entries()) log.write([line], n % 2 === 0 ? 'stdout' : 'stderr')
  log.end(0)
  const { messages } = await rig.tail(rig.pathTo())
  const whole = bytesOf(messages)
  assert.ok(messages.length > 20)
  for (const at of [0, 7, messages.length - 2]) {
    const rest = await rig.tail(rig.pathTo(`?cursor=${messages[at]!.cursor}`))
    assert.deepEqual(rest.messages, messages.slice(at + 1))
    assert.deepEqual(Buffer.concat([bytesOf(messages.slice(0, at + 1)), bytesOf(rest.messages)]), whole)
  }
})

test('tail, stream and follow choose what comes; without following it ends though the log goes on', async t => {
  const rig = await buildSocketRig(t)
  rig.makeLog(rig.sandbox.id).write(['a', 'b', 'c']).write(['x', 'y'], 'stderr')
  const { messages, code } = await rig.tail(rig.pathTo('?follow=false&tail=2&stream=stdout'))
  assert.equal(bytesOf(messages).toString(), 'b\nc\n')
  assert.deepEqual(messages.at(-1), { type: 'end' })
  assert.equal(code, 1000)
})

test('execs and tasks have theirs, a task each attempt of it', async t => {
  const rig = await buildSocketRig(t)
  rig.makeLog(exec).write(['of the exec']).end(0)
  rig.makeLog(rig.task.id).write(['of the task']).end(0)
  rig.makeLog(`${rig.task.id}/2`).write(['of its second attempt']).end(0)
  const textOf = async (path: string) => bytesOf((await rig.tail(path)).messages).toString()
  assert.equal(await textOf(`/v1/sandboxes/${rig.sandbox.id}/execs/${exec}/logs/ws`), 'of the exec\n')
  assert.equal(await textOf(`/v1/tasks/${rig.task.id}/logs/ws`), 'of the task\n')
  assert.equal(await textOf(`/v1/tasks/${rig.task.id}/logs/ws?attempt=2`), 'of its second attempt\n')
})

test('a follower that stops reading holds no more than a little, is cut off, and loses nothing', async t => {
  let batches = 0
  const rig = await buildSocketRig(t, { followerStallMs: 300, onBatch: () => { batches++ } })
  const log = rig.makeLog(rig.sandbox.id)
  const lines = Array.from({ length: 8192 }, (_, n) => `${String(n).padStart(8, '0')}${'x'.repeat(4000)}`)
  log.write(lines).end(0)
  const whole = Buffer.from(lines.map(line => `${line}\n`).join(''))
  const messages: Message[] = []
  const socket = rig.open(rig.pathTo())
  socket.on('message', data => messages.push(JSON.parse(String(data))))
  await once(socket, 'open')
  socket.pause()
  // What the kernel's buffers hold and then some, but never the whole: that is read on only as it is taken.
  await until(() => rig.reader.watchedCount === 0)
  const batchesOfStalled = batches
  batches = 0
  socket.resume()
  await once(socket, 'close')
  assert.notEqual(messages.at(-1)?.type, 'end')
  const { cursor } = messages.filter(({ type }) => type === 'output').at(-1) ?? {}
  const rest = await rig.tail(rig.pathTo(cursor === undefined ? '' : `?cursor=${cursor}`))
  assert.deepEqual(rest.messages.at(-1), { type: 'end', reason: 'exited', exitCode: 0 })
  assert.ok(Buffer.concat([bytesOf(messages), bytesOf(rest.messages)]).equals(whole), 'bytes are missing or twice')
  assert.ok(batchesOfStalled < (batchesOfStalled + batches) / 2, `${batchesOfStalled} blocks were read for one that took nothing, ${batches} for the rest`)
})

test('a follower that reads slowly is waited for', async t => {
  const rig = await buildSocketRig(t, { followerStallMs: 1000 })
  const lines = Array.from({ length: 4096 }, () => 'y'.repeat(4000))
  rig.makeLog(rig.sandbox.id).write(lines).end(0)
  const socket = rig.open(rig.pathTo())
  let seen = 0
  socket.on('message', () => {
    if (++seen % 32 !== 0) return
    socket.pause()
    setTimeout(() => socket.resume(), 20)
  })
  const { messages, code } = await untilClosed(socket)
  assert.equal(code, 1000)
  assert.equal(bytesOf(messages).length, lines.length * 4001)
})

test('who asks for it gets its frames deflated', async t => {
  const rig = await buildSocketRig(t)
  const lines = Array.from({ length: 1000 }, (_, n) => `the same again, ${n}`)
  rig.makeLog(rig.sandbox.id).write(lines).end(0)
  const socket = rig.open(rig.pathTo(), { perMessageDeflate: true })
  const [response] = await once(socket, 'upgrade') as [{ socket: { bytesRead: number } }]
  const { messages } = await untilClosed(socket)
  assert.match(socket.extensions, /permessage-deflate/)
  assert.equal(bytesOf(messages).toString(), lines.map(line => `${line}\n`).join(''))
  assert.ok(response.socket.bytesRead < bytesOf(messages).length / 2)
})

async function until (condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 10))
}
