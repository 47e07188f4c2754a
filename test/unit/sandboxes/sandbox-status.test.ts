/** Every pair of statuses, and every verb in every status. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { SandboxStatus } from '../../../src/schemas/sandbox.ts'
import { assertVerb, canMove, endedStatuses, liveStatuses, type SandboxVerb } from '../../../src/services/sandboxes/sandbox-status.ts'

const statuses: SandboxStatus[] = ['pending', 'creating', 'created', 'running', 'paused', 'stopping', 'stopped', 'failed']

/* One row per status before, one column per status after, in the order above. */
const table: Record<SandboxStatus, string> = {
  //          p c c r p s s f
  pending: '. x . . . . . x',
  creating: '. . x . . . . x',
  created: '. . . x . x x x',
  running: '. . . . x x x x',
  paused: '. . . x . x x x',
  stopping: '. . . . . . x x',
  stopped: '. x . . . . . .',
  failed: '. x . . . . . .',
}

for (const from of statuses) {
  test(`a sandbox that is ${from} may become what the table says, and nothing else`, () => {
    const allowed = statuses.map(to => canMove(from, to) ? 'x' : '.').join(' ')
    assert.equal(allowed, table[from])
  })
}

test('a sandbox never becomes what it is, and what has ended only ever begins again', () => {
  for (const status of statuses) assert.equal(canMove(status, status), false)
  for (const from of endedStatuses) assert.deepEqual(statuses.filter(to => canMove(from, to)), ['creating'])
})

test('a container can only be there in a status that can still end', () => {
  for (const status of liveStatuses) assert.ok(canMove(status, 'stopped') && canMove(status, 'failed'), status)
  assert.ok(endedStatuses.every(status => !liveStatuses.includes(status)))
})

const verbs: Record<SandboxVerb, SandboxStatus[]> = {
  start: ['created', 'stopped', 'failed'],
  stop: ['created', 'running', 'paused', 'stopping'],
  pause: ['running'],
  resume: ['paused'],
  'exec in': ['running'],
}

for (const [verb, allowed] of Object.entries(verbs) as Array<[SandboxVerb, SandboxStatus[]]>) {
  test(`one can ${verb} a sandbox that is ${allowed.join(' or ')}; else the answer says which would do`, () => {
    for (const status of statuses) {
      if (allowed.includes(status)) assert.doesNotThrow(() => assertVerb(verb, status))
      else assert.throws(() => assertVerb(verb, status), { kind: 'conflict', code: 'invalid_state', details: { status, allowed } })
    }
  })
}
