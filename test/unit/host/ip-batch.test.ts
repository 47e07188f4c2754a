import { test } from 'node:test'
import assert from 'node:assert/strict'
import { IpError, parseDeviceTable, type IpProblem } from '../../../src/host/ip-batch.ts'

const captured: [stderr: string, problem: IpProblem, line: number | undefined][] = [
  ['Cannot create namespace file "/run/netns/t-3d13": File exists\nCommand failed -:2\n', 'exists', 1],
  ['RTNETLINK answers: File exists\nCommand failed -:11\n', 'exists', 10],
  // Kernels of 6.x say it in words of their own.
  ['Error: ipv4: Address already assigned.\nCommand failed -:1\n', 'exists', 0],
  ['Error: ipv6: address already assigned.\nCommand failed -:1\n', 'exists', 0],
  ['Cannot remove namespace file "/run/netns/nope": No such file or directory\nCommand failed -:1\n', 'missing', 0],
  ['Cannot find device "nope"\n', 'missing', undefined],
  ['RTNETLINK answers: Operation not permitted\nCommand failed -:3\n', 'other', 2],
]

for (const [stderr, problem, line] of captured) {
  test(`"${stderr.split('\n')[0]}" is understood`, () => {
    const error = new IpError('ip -batch -', stderr, 1)
    assert.deepEqual([error.problem, error.line], [problem, line])
    assert.match(error.message, /^ip -batch -: \S/)
  })
}

test('a device is found in the table of all, by its whole name', () => {
  const table = [
    'Inter-|   Receive                                                |  Transmit',
    ' face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed',
    '    lo:  100      2    0    0    0     0          0         0      100       2    0    0    0     0       0          0',
    'bvabcdef0011: 4096      7    0    0    0     0          0         0     8192      9    0    0    0     0       0          0',
    'bvabcdef001:1 1    0    0    0     0          0         0     2       9    0    0    0     0       0          0',
  ].join('\n')
  assert.deepEqual(parseDeviceTable(table, 'bvabcdef0011'), [4096, 8192])
  assert.deepEqual(parseDeviceTable(table, 'lo'), [100, 100])
  assert.equal(parseDeviceTable(table, 'bvabcdef00'), undefined)
})
