import assert from 'node:assert/strict'
import { test } from 'node:test'
import { describeRedis, parseRedisUrl } from '../../../src/services/redis/redis-settings.ts'

test('every form of a URL is read, with what it leaves out filled in', () => {
  const cases: [string, object][] = [
    ['redis://127.0.0.1', { kind: 'single', isTls: false, node: { host: '127.0.0.1', port: 6379 }, db: 0 }],
    ['rediss://ann@redis.example:7000/3', { kind: 'single', isTls: true, node: { host: 'redis.example', port: 7000 }, db: 3, username: 'ann' }],
    ['redis://:p%40ss@[fd00::1]:6380', { kind: 'single', isTls: false, node: { host: 'fd00::1', port: 6380 }, db: 0, password: 'p@ss' }],
    ['unix:///run/redis/redis.sock', { kind: 'unix', isTls: false, path: '/run/redis/redis.sock', db: 0 }],
    ['redis+cluster://a:7000,b', { kind: 'cluster', isTls: false, nodes: [{ host: 'a', port: 7000 }, { host: 'b', port: 6379 }], db: 0 }],
    ['rediss+sentinel://bob:x@a,b:1/main/2', { kind: 'sentinel', isTls: true, nodes: [{ host: 'a', port: 26379 }, { host: 'b', port: 1 }], master: 'main', db: 2, username: 'bob', password: 'x' }],
  ]
  for (const [url, expected] of cases) assert.deepEqual(parseRedisUrl(url), expected, url)
})

test('what is no URL of a Redis is refused with what is wrong, and without its password', () => {
  const cases: [string, RegExp][] = [
    ['localhost:6379', /is no URL of a Redis/],
    ['http://a', /is no URL of a Redis/],
    ['redis://:secret@a,b', /several hosts.*redis\+cluster/],
    ['redis://:secret@a:99999', /no HOST:PORT/],
    ['redis://:secret@', /no HOST:PORT/],
    ['redis://:secret@a/x', /no number of a database/],
    ['redis+sentinel://:secret@a,b', /name of the master/],
    ['redis+cluster://a/3', /database 0 alone/],
    ['unix://redis.sock', /absolute path/],
    ['redis://:%secret@a', /%25/],
  ]
  for (const [url, message] of cases) {
    assert.throws(() => parseRedisUrl(url), (error: Error) => {
      assert.match(error.message, message, url)
      assert.ok(!error.message.includes('secret'), url)
      return true
    })
  }
})

test('an address is shown without who asks there', () => {
  for (const url of ['redis://127.0.0.1:6379/2', 'unix:///run/r.sock', 'rediss+cluster://a:1,[fd00::1]:2', 'redis+sentinel://a:1/main']) {
    assert.equal(describeRedis(parseRedisUrl(url.replace('://', '://ann:secret@'))), url)
  }
})
