import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BerthError } from '../../../src/errors.ts'
import type { ExecCreate, ExecResult } from '../../../src/schemas/exec.ts'
import { PortLister } from '../../../src/services/network/port-lister.ts'
import { parseListeningSockets } from '../../../src/services/network/socket-table.ts'

const tail = '00000000:00000000 00:00000000 00000000  1000        0        4 2 0000000000000000 0 0 0 0 -1'
const zero = '0'.repeat(32)

// As printed inside a gVisor sandbox.
const ofGvisor = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     
   3: 0100007F:1F90 00000000:0000 0A ${tail}
   6: 0100007F:6ACB 0100007F:1F90 01 ${tail}
   7: 0100007F:1F90 0100007F:6ACB 01 ${tail}
   0: 00000000:1B9E 00000000:0000 0A ${tail}
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   1: 00000000000000000000000001000000:2382 ${zero}:0000 0A ${tail}
   2: 0000000000000000FFFF00000100007F:17AC ${zero}:0000 0A ${tail}
`
// As printed inside a runc sandbox.
const ofLinux = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     
   0: 0710C80A:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5527945 1 0000000093da0b3c 100 0 0 10 0                   
   2: 0100007F:A5E8 0100007F:1F90 06 00000000:00000000 03:0000174D 00000000     0        0 0 3 0000000007b7f072                                      
   0: 000000000000000000000000000000000:1E61 0:0000 0A
   1: ${zero}:1E61 ${zero}:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5522124 1 00000000123400cd 100 0 0 10 0
   2: B2A100FD000000000000000007100000:01BB ${zero}:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5522125 1 00000000123400cd 100 0 0 10 0
`

test('listening sockets are found in the tables of gVisor', () => {
  assert.deepEqual(parseListeningSockets(ofGvisor), [
    { port: 6060, address: '127.0.0.1', isLoopback: true },
    { port: 7070, address: '0.0.0.0', isLoopback: false },
    { port: 8080, address: '127.0.0.1', isLoopback: true },
    { port: 9090, address: '::1', isLoopback: true },
  ])
})

test('listening sockets are found in the tables of Linux', () => {
  assert.deepEqual(parseListeningSockets(ofLinux), [
    { port: 80, address: '10.200.16.7', isLoopback: false },
    { port: 443, address: 'fd00:a1b2::1007', isLoopback: false },
    { port: 7777, address: '::', isLoopback: false },
  ])
})

test('a socket is named once, though several processes share it or both tables have it', () => {
  const line = `   0: 00000000:1F90 00000000:0000 0A ${tail}\n`
  const mapped = `   0: 0000000000000000FFFF000000000000:1F90 ${zero}:0000 0A ${tail}\n`
  assert.deepEqual(parseListeningSockets(line + mapped + line), [{ port: 8080, address: '0.0.0.0', isLoopback: false }])
})

for (const [what, text] of [
  ['nothing', ''],
  ['a socket that is not bound', `   0: 00000000:0000 00000000:0000 0A ${tail}\n`],
  ['a connection', `   0: 00000000:1F90 00000000:0000 01 ${tail}\n`],
  ['an address of a wrong length', `   0: 000000000000:1F90 00000000:0000 0A ${tail}\n`],
  ['digits that are none', `   0: 0000000G:1F90 00000000:0000 0A ${tail}\n`],
  ['a port of five digits', `   0: 00000000:1F901 00000000:0000 0A ${tail}\n`],
  ['a line that was cut', '   0: 00000000:1F90 0000'],
  ['escape sequences', `\u001b[2J 0: 00000000:1F90 00000000:0000 0A ${tail}\n`],
  ['a megabyte without a line end', '0'.repeat(1024 ** 2)],
] as const) {
  test(`no socket is made of ${what}`, () => assert.deepEqual(parseListeningSockets(text), []))
}

function build (answer: Partial<ExecResult>) {
  const asked: ExecCreate[] = []
  const gate = Promise.withResolvers<void>()
  const execs = {
    run: async (_id: string, input: ExecCreate): Promise<ExecResult> => {
      asked.push(input)
      await gate.promise
      return { id: 'exe_a', exitCode: 0, stdout: '', stderr: '', truncated: { stdout: false, stderr: false }, timedOut: false, durationMs: 1, ...answer }
    },
  }
  return { lister: new PortLister({ execs }), asked, open: () => gate.resolve() }
}

test('ports are read by the helper on the init mount, once for all who ask at a time', async () => {
  const { lister, asked, open } = build({ stdout: ofGvisor })
  const both = Promise.all([lister.list('sbx_a'), lister.list('sbx_a')])
  const other = lister.list('sbx_b')
  open()
  const [one, two] = await both
  assert.deepEqual(one.map(({ port }) => port), [6060, 7070, 8080, 9090])
  assert.deepEqual(one, two)
  await other
  assert.equal(asked.length, 2)
  await lister.list('sbx_a')
  assert.equal(asked.length, 3, 'what was seen is not kept')
  assert.equal(asked[0]!.argv[0], '/.berth/busybox')
  assert.ok(asked[0]!.timeoutMs! > 0 && asked[0]!.maxOutputBytes! <= 1024 ** 2)
})

test('a sandbox that makes up sockets is shown a bounded number of them', async () => {
  const lines = Array.from({ length: 5000 }, (_, n) => `   0: 00000000:${(n + 1).toString(16).toUpperCase().padStart(4, '0')} 00000000:0000 0A ${tail}\n`)
  const { lister, open } = build({ stdout: lines.join('') })
  open()
  assert.equal((await lister.list('sbx_a')).length, 1000)
})

test('nothing that listens is no error; a helper that could not work is one, and the next look is a new one', async () => {
  for (const exitCode of [1, 2]) {
    const { lister, open } = build({ exitCode })
    open()
    assert.deepEqual(await lister.list('sbx_a'), [])
  }
  for (const [answer, kind] of [[{ exitCode: 137 }, 'unavailable'], [{ exitCode: 137, timedOut: true }, 'timed_out']] as const) {
    const { lister, asked, open } = build(answer)
    open()
    await assert.rejects(lister.list('sbx_a'), (error: BerthError) => error.kind === kind && error.code === 'ports_unreadable')
    await assert.rejects(lister.list('sbx_a'))
    assert.equal(asked.length, 2)
  }
})
