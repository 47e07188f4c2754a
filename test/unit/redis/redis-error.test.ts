import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { isAccessRefusal, toRedisError } from '../../../src/services/redis/redis-error.ts'

/** As the library makes them of a server's answer. */
function reply (message: string): Error {
  return Object.assign(new Error(message), { name: 'ReplyError' })
}

test('a server that cannot serve for now is an error that says what to do', () => {
  const cases: [Error, RegExp][] = [
    [reply('LOADING Redis is loading the dataset in memory'), /reads its data/],
    [reply('READONLY You can\'t write against a read only replica.'), /replica/],
    [reply('CLUSTERDOWN Hash slot not served'), /parts of the cluster/],
    [reply('WRONGPASS invalid username-password pair or user is disabled.'), /BERTH_REDIS_PASSWORD_FILE/],
    [reply('NOAUTH Authentication required.'), /wants a password/],
    [new Error('Command timed out'), /does not answer/],
    [new Error('Connection is closed.'), /connection was lost/],
    [Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:1'), { code: 'ECONNREFUSED' }), /nothing listens there/],
    [Object.assign(new Error('self-signed certificate'), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' }), /self-signed certificate/],
  ]
  for (const [error, message] of cases) {
    const found = toRedisError(error, 'redis://a:1')
    assert.ok(found instanceof BerthError, error.message)
    assert.deepEqual([found.kind, found.code, found.cause], ['unavailable', 'redis_unavailable', error])
    assert.match(found.message, message)
    assert.match(found.message, /redis:\/\/a:1/)
  }
})

test('what is wrong with a command, or with its caller, stays what it is', () => {
  const known = new BerthError('conflict', 'stale_claim', 'somebody else has it')
  for (const error of [reply('WRONGTYPE Operation against a key'), reply('ERR user_script:1: oh'), new TypeError('x is not a function'), known, 'text']) {
    assert.equal(toRedisError(error, 'redis://a:1'), error)
  }
})

test('a password that is not taken is told from a server that is away', () => {
  assert.ok(isAccessRefusal(reply('WRONGPASS invalid')))
  assert.ok(!isAccessRefusal(reply('LOADING')))
})
