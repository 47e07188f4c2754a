/** What is known about an end, and the reason that follows. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { SandboxEnd } from '../../../src/schemas/sandbox.ts'
import { classifyEnd, failureReasons, type EndFacts } from '../../../src/services/sandboxes/sandbox-end.ts'

const at = '2026-03-01T09:30:00.000Z'

const nothing: EndFacts = {
  at,
  exitCode: undefined,
  stopReason: undefined,
  oomKills: 0,
  sharesHostKernel: false,
  peakMemoryBytes: undefined,
  hasCrashed: false,
  hasHostRestarted: false,
}

const cases: Array<[name: string, facts: Partial<EndFacts>, expected: Partial<SandboxEnd>]> = [
  ['a code of 0 is an exit', { exitCode: 0 }, { reason: 'exited', exitCode: 0 }],
  ['any code up to 128 is an exit', { exitCode: 128 }, { reason: 'exited', exitCode: 128, signal: undefined }],
  ['a code above 128 is a signal', { exitCode: 143 }, { reason: 'signaled', exitCode: 143, signal: 'SIGTERM' }],
  ['a code above 128 that is no signal is an exit', { exitCode: 255 }, { reason: 'exited', exitCode: 255, signal: undefined }],
  ['no code means that the monitor was lost', { exitCode: undefined }, { reason: 'lost', exitCode: undefined }],
  ['a kill for want of memory goes before the code it left', { exitCode: 137, oomKills: 1, peakMemoryBytes: 99 }, { reason: 'out_of_memory', exitCode: 137, peakMemoryBytes: 99 }],
  ['a kill for want of memory explains a missing code', { exitCode: undefined, oomKills: 2 }, { reason: 'out_of_memory' }],
  ['a kernel in user space that was killed may say anything but 0', { exitCode: 1, oomKills: 1 }, { reason: 'out_of_memory' }],
  ['on the host\'s kernel a program that failed after the kill of another failed by itself', { exitCode: 1, oomKills: 1, sharesHostKernel: true }, { reason: 'exited', exitCode: 1 }],
  ['on the host\'s kernel the one that was killed says 137', { exitCode: 137, oomKills: 1, sharesHostKernel: true }, { reason: 'out_of_memory' }],
  ['a program that survived the kill of a child ended by itself', { exitCode: 0, oomKills: 1 }, { reason: 'exited', exitCode: 0 }],
  ['a stop that we meant goes before the signal it used', { exitCode: 137, stopReason: 'requested' }, { reason: 'requested', exitCode: 137, signal: 'SIGKILL' }],
  ['a stop that we meant goes before memory', { exitCode: 137, stopReason: 'timed_out', oomKills: 1 }, { reason: 'timed_out' }],
  ['a stop that we meant goes before a missing code', { exitCode: undefined, stopReason: 'drained' }, { reason: 'drained', exitCode: undefined }],
  ['a stop that we meant goes before a restart of the host', { exitCode: undefined, stopReason: 'idle', hasHostRestarted: true }, { reason: 'idle' }],
  ['no code after a restart of the host is the restart', { exitCode: undefined, hasHostRestarted: true }, { reason: 'host_restarted', exitCode: undefined }],
  ['a SIGTERM before a restart of the host is the shutdown', { exitCode: 143, hasHostRestarted: true }, { reason: 'host_restarted', exitCode: undefined }],
  ['a SIGKILL before a restart of the host is the shutdown', { exitCode: 137, hasHostRestarted: true }, { reason: 'host_restarted', exitCode: undefined }],
  ['an exit before a restart of the host is an exit', { exitCode: 3, hasHostRestarted: true }, { reason: 'exited', exitCode: 3 }],
  ['a runtime that left last words crashed, whatever its code', { exitCode: 2, hasCrashed: true }, { reason: 'runtime_crashed', exitCode: 2 }],
  ['a runtime that crashed under a stop that we meant was stopped', { exitCode: 2, hasCrashed: true, stopReason: 'requested' }, { reason: 'requested' }],
  ['a crash before a restart of the host is a crash', { exitCode: 139, hasHostRestarted: true }, { reason: 'signaled', signal: 'SIGSEGV' }],
]

for (const [name, facts, expected] of cases) {
  test(name, () => {
    const end = classifyEnd({ ...nothing, ...facts })
    assert.equal(end.at, at)
    for (const [key, value] of Object.entries(expected)) assert.deepEqual(end[key as keyof SandboxEnd], value, `${key} of ${JSON.stringify(end)}`)
    assert.ok(Object.values(end).every(value => value !== undefined), 'what is not known is not there')
  })
}

test('only what nobody wished for is a failure', () => {
  assert.deepEqual([...failureReasons].sort(), ['image_lost', 'lost', 'runtime_crashed', 'setup_failed'])
})
