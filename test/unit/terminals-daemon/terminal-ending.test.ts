import assert from 'node:assert/strict'
import { test } from 'node:test'
import { classifyTerminalEnd, type EndFacts } from '../../../src/services/terminals/terminal-ending.ts'

const at = '2026-01-01T00:00:00.000Z'
const facts = (own: Partial<EndFacts>): EndFacts => ({ at, hasHostRestarted: false, hasSandboxEnded: false, ...own })
const end = (own: { exitCode?: number, signalNumber?: number }) => ({ at, offset: 0, ...own })

const cases: Array<[string, Partial<EndFacts>, Record<string, unknown>]> = [
  ['a program that ended says how', { end: end({ exitCode: 3 }) }, { reason: 'exited', exitCode: 3 }],
  ['one that a signal ended says which', { end: end({ exitCode: 143 }) }, { reason: 'exited', exitCode: 143, signal: 'SIGTERM' }],
  ['a client that was killed has seen nothing', { end: end({ exitCode: 0, signalNumber: 9 }) }, { reason: 'exited' }],
  ['one that was ended by us says why', { end: end({ exitCode: 129 }), ending: 'deleted' }, { reason: 'deleted', exitCode: 129, signal: 'SIGHUP' }],
  ['the code of a client that lost its sandbox is none', { end: end({ exitCode: 128 }), hasSandboxEnded: true }, { reason: 'sandbox_ended' }],
  ['a program that ended with its sandbox says how', { end: end({ exitCode: 137 }), hasSandboxEnded: true }, { reason: 'sandbox_ended', exitCode: 137, signal: 'SIGKILL' }],
  ['a pty-host that died has told nothing', {}, { reason: 'pty_host_lost' }],
  ['neither has a host that was restarted', { hasHostRestarted: true, hasSandboxEnded: true }, { reason: 'host_restarted' }],
  ['an end that was written down before outlasts a restart', { hasHostRestarted: true, hasSandboxEnded: true, end: end({ exitCode: 0 }) }, { reason: 'exited', exitCode: 0 }],
  ['idle, and the pty-host died over it', { ending: 'idle' }, { reason: 'idle' }],
]

for (const [name, own, expected] of cases) {
  test(name, () => assert.deepEqual(classifyTerminalEnd(facts(own)), { ...expected, at }))
}
