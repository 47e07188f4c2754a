import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { TerminalInput } from '../../../src/services/terminals/terminal-input.ts'

function build (windowBytes: number) {
  const sent: string[] = []
  const done: string[] = []
  const input = new TerminalInput({ windowBytes, send: bytes => { sent.push(bytes.toString()) } })
  const write = (text: string) => {
    void input.write(Buffer.from(text)).then(() => done.push(text), (error: BerthError) => done.push(`${text}: ${error.code}`))
  }
  return { input, write, sent, done, turn: () => new Promise(resolve => setImmediate(resolve)) }
}

test('never more is under way than the window, and each writer is told when its own was taken', async () => {
  const { input, write, sent, done, turn } = build(4)
  write('abcdef')
  write('gh')
  assert.deepEqual(sent, ['abcd'])
  input.taken(3)
  assert.deepEqual(sent, ['abcd', 'ef', 'g'])
  await turn()
  assert.deepEqual(done, [])
  input.taken(3)
  await turn()
  assert.deepEqual(done, ['abcdef'])
  assert.deepEqual(sent, ['abcd', 'ef', 'g', 'h'])
  input.taken(2)
  await turn()
  assert.deepEqual(done, ['abcdef', 'gh'])
})

test('more taken than was sent is no credit', async () => {
  const { input, write, sent } = build(2)
  input.taken(1000)
  write('abcd')
  assert.deepEqual(sent, ['ab'])
})

test('what is under way when the line breaks is told so, and more may be written', async () => {
  const { input, write, sent, done, turn } = build(2)
  write('abcd')
  input.break(new BerthError('unavailable', 'pty_host_unavailable', 'gone'))
  write('ef')
  await turn()
  assert.deepEqual(done, ['abcd: pty_host_unavailable'])
  assert.deepEqual(sent, ['ab', 'ef'])
  input.close(new BerthError('conflict', 'terminal_ended', 'ended'))
  write('gh')
  await turn()
  assert.deepEqual(done.slice(1), ['ef: terminal_ended', 'gh: terminal_ended'])
  assert.deepEqual(sent, ['ab', 'ef'])
})
