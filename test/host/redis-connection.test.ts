/** The connection to Redis, on servers that stop, hang, load, fail over and forget. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import type { BerthError } from '../../src/errors.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { runBatch } from '../../src/services/redis/redis-batch.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import type { RedisClient, RedisConnection, RedisSettings } from '../../src/services/redis/redis-types.ts'
import { freePort } from '../support/free-port.ts'
import { startCluster } from '../support/redis-cluster.ts'
import { startSentinels } from '../support/redis-sentinel.ts'
import { RedisServer } from '../support/redis-server.ts'
import { startTlsRedis } from '../support/redis-tls.ts'

const withinMs = 20_000
/** Such as those of emitters with too many listeners. */
const warnings: Error[] = []
process.on('warning', warning => { warnings.push(warning) })
const callTimeoutMs = 500

interface Opened {
  redis: RedisConnection
  log: Record<string, unknown>[]
}

/** Hooks run in their order, so a server must be started before what is connected to it. */
async function open (t: TestContext, settings: Partial<RedisSettings>, timeoutMs = callTimeoutMs): Promise<Opened> {
  const log: Record<string, unknown>[] = []
  const logger = pino({ level: 'debug' }, { write: (line: string) => { log.push(JSON.parse(line)) } })
  const redis = await openRedis({ url: '', prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '', ...settings }, { logger, callTimeoutMs: timeoutMs })
  t.after(() => redis.close())
  return { redis, log }
}

function isUnavailable (message: RegExp) {
  return (error: BerthError) => {
    assert.deepEqual([error.kind, error.code], ['unavailable', 'redis_unavailable'])
    assert.match(error.message, message)
    return true
  }
}

async function eventually (what: string, isSo: () => Promise<boolean>): Promise<void> {
  assert.ok(await pollUntil(isSo, withinMs), what)
}

const serves = (redis: RedisConnection) => () => redis.run(client => client.ping()).then(() => true, () => false)

test('a process starts without its Redis, says why a call fails, and is served once it is there', async t => {
  const port = await freePort()
  const { redis, log } = await open(t, { url: `redis://127.0.0.1:${port}` })
  assert.equal(redis.isReady, false)
  await assert.rejects(redis.run(client => client.get('a')), isUnavailable(/nothing listens there/))
  let readies = 0
  redis.onReady(() => { readies++ })
  await RedisServer.start(t, { port })
  await eventually('it is served', serves(redis))
  assert.equal(readies, 1)
  assert.deepEqual(log.map(({ msg }) => msg), ['redis does not serve; it is tried again and again', 'redis serves again'])
})

test('calls wait for a server that comes back, and what failed meanwhile is never carried out', async t => {
  const server = await RedisServer.start(t)
  const { redis } = await open(t, { url: server.url })
  await redis.run(client => client.incr('count'))
  await server.kill()
  await assert.rejects(redis.run(client => client.incr('count')), isUnavailable(/./))
  const waiting = assert.rejects(redis.run(client => client.incr('count')), isUnavailable(/./))
  await waiting
  await server.run()
  await eventually('it is served', serves(redis))
  assert.equal(await redis.run(client => client.get('count')), '1')
})

test('waiting commands fail and subscriptions live on when a server is started anew', async t => {
  const server = await RedisServer.start(t)
  const { redis } = await open(t, { url: server.url })
  const blocking = redis.another('blocking')
  const heard = listen(redis.another('subscriber'))
  await heard.client.subscribe('news')
  const blocked = assert.rejects(blocking.blmove('list', 'list', 'RIGHT', 'RIGHT', 10))
  await eventually('it waits', async () => /cmd=blmove/.test(String(await redis.run(client => client.call('CLIENT', 'LIST')))))
  await server.kill()
  await blocked
  await server.run()
  const moved = blocking.blmove('list', 'list', 'RIGHT', 'RIGHT', 10)
  await eventually('it is served', serves(redis))
  await redis.run(client => client.lpush('list', 'x'))
  assert.equal(await moved, 'x')
  await eventually('it hears again', () => tellUntilHeard(redis, heard))
})

test('a server that takes connections and answers nothing is noticed by all', async t => {
  const server = await RedisServer.start(t)
  const { redis } = await open(t, { url: server.url })
  const heard = listen(redis.another('subscriber'))
  await heard.client.subscribe('news')
  const [before, subscriberBefore] = await Promise.all([redis.client, heard.client].map(streamOf))
  server.pause()
  await assert.rejects(redis.run(client => client.incr('count')), isUnavailable(/does not answer|connection was lost/))
  await eventually('both connections are given up', async () => streamOf(redis.client) !== before && streamOf(heard.client) !== subscriberBefore)
  server.resume()
  await eventually('it is served', serves(redis))
  await eventually('it hears again', () => tellUntilHeard(redis, heard))
})

test('a server that reads its data is waited for, and one that says so to a call is unavailable', async t => {
  const server = await LoadingServer.start(t)
  const { redis } = await open(t, { url: server.url }, 1000)
  assert.equal(redis.isReady, false)
  const call = redis.run(client => client.get('a'))
  server.isLoading = false
  assert.equal(await call, 'value')
  server.refusal = 'LOADING Redis is loading the dataset in memory'
  await assert.rejects(redis.run(client => client.get('a')), isUnavailable(/reads its data/))
  server.refusal = undefined
  await eventually('it is served', serves(redis))
})

test('a master that becomes a replica is unavailable to writers until it is one no more', async t => {
  const server = await RedisServer.start(t)
  const { redis } = await open(t, { url: server.url })
  const admin = await open(t, { url: server.url })
  await admin.redis.run(client => client.call('REPLICAOF', '127.0.0.1', String(server.port + 1)))
  await assert.rejects(redis.run(client => client.set('a', '1')), isUnavailable(/it is a replica/))
  await eventually('it is a master', () => admin.redis.run(client => client.call('REPLICAOF', 'NO', 'ONE')).then(() => true, () => false))
  await eventually('it is written to', () => redis.run(client => client.set('a', '1')).then(() => true, () => false))
})

test('a wrong password is said clearly, once, and the right one is taken as soon as its file has it', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-redis-password-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const server = await RedisServer.start(t, { args: ['--requirepass', 'default-password', '--user', ...'berth on >right ~airstore:* &* +@all'.split(' ')] })
  const passwordFile = join(dir, 'password')
  await writeFile(passwordFile, 'wrong\n')
  const { redis, log } = await open(t, { url: server.url.replace('://', '://berth@'), passwordFile })
  await assert.rejects(redis.run(client => client.get('airstore:a')), isUnavailable(/does not take the user or the password.*BERTH_REDIS_PASSWORD_FILE/))
  await assert.rejects(redis.run(client => client.get('airstore:a')), isUnavailable(/password/))
  assert.deepEqual(log.map(({ level, msg }) => [level, msg]), [[50, 'redis does not take the user or the password']])
  assert.ok(!JSON.stringify(log).includes('wrong'))
  await writeFile(passwordFile, 'right\n')
  await eventually('it is let in', serves(redis))
  assert.equal(await redis.run(client => client.set('airstore:a', '1')), 'OK')
  await assert.rejects(redis.run(client => client.get('elsewhere')), isUnavailable(/may not do that/))
})

test('over TLS both sides show their certificates, and a new authority is read from its file', async t => {
  const world = await startTlsRedis(t)
  const dir = await mkdtemp(join(tmpdir(), 'berth-redis-ca-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const caFile = join(dir, 'ca.crt')
  await writeFile(caFile, await readFile(world.otherCaFile))
  const { redis } = await open(t, { ...world, caFile })
  await assert.rejects(redis.run(client => client.get('a')), isUnavailable(/certificate/))
  await writeFile(caFile, 'no certificate at all')
  await assert.rejects(redis.run(client => client.get('a')), isUnavailable(/./))
  await writeFile(caFile, await readFile(world.caFile))
  await eventually('it is let in', serves(redis))
  const anonymous = await open(t, { url: world.url, caFile: world.caFile })
  await assert.rejects(anonymous.redis.run(client => client.get('a')), isUnavailable(/./))
  assert.equal(anonymous.redis.isReady, false)
})

test('a socket of the machine and a number of a database are used as the URL says', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-redis-socket-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const server = await RedisServer.start(t, { args: ['--unixsocket', join(dir, 'r.sock')] })
  const unix = await open(t, { url: `unix://${join(dir, 'r.sock')}` })
  const third = await open(t, { url: `${server.url}/3` })
  await third.redis.run(client => client.set('a', 'of 3'))
  assert.equal(await unix.redis.run(client => client.get('a')), null)
  await unix.redis.run(client => client.select(3))
  assert.equal(await unix.redis.run(client => client.get('a')), 'of 3')
})

test('a script that a server has forgotten is sent to it again', async t => {
  const server = await RedisServer.start(t)
  const { redis } = await open(t, { url: server.url })
  redis.client.defineCommand('answer', { numberOfKeys: 1, lua: 'return KEYS[1]' })
  const answer = (): Promise<unknown> => redis.run(client => (client as unknown as { answer: (key: string) => Promise<unknown> }).answer('a'))
  assert.equal(await answer(), 'a')
  await redis.run(client => client.script('FLUSH'))
  assert.equal(await answer(), 'a')
})

test('sentinels lead to the master, the next one too, with a password of their own', async t => {
  const world = await startSentinels(t, { password: 'secret' })
  const dir = await mkdtemp(join(tmpdir(), 'berth-redis-sentinel-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  await writeFile(join(dir, 'password'), 'secret')
  const { redis } = await open(t, { url: world.url, passwordFile: join(dir, 'password') })
  const heard = listen(redis.another('subscriber'))
  await eventually('it is served', () => redis.run(client => client.set('a', 'before')).then(() => true, () => false))
  await heard.client.subscribe('news')
  await eventually('the replica has it', async () => await redis.run(client => client.wait(1, 100)) === 1)
  await world.master.kill()
  await eventually('the replica is written to', () => redis.run(client => client.set('b', 'after')).then(() => true, () => false))
  assert.deepEqual(await redis.run(client => client.mget('a', 'b')), ['before', 'after'])
  await eventually('it hears again', () => tellUntilHeard(redis, heard))
})

test('a cluster is used whole: keys of all nodes, batches, scripts, waiting, and what is published anywhere', async t => {
  const world = await startCluster(t)
  const { redis } = await open(t, { url: world.url }, 2000)
  const blocking = redis.another('blocking')
  const heard = listen(redis.another('subscriber'))
  await heard.client.subscribe('news')
  const keys = Array.from({ length: 20 }, (_, n) => `key-${n}`)
  await redis.run(client => runBatch(client, keys.map(key => ['SET', key, key])))
  assert.deepEqual(await redis.run(client => runBatch(client, keys.map(key => ['GET', key]))), keys)
  const moved = blocking.blmove('list', 'list', 'RIGHT', 'RIGHT', 10)
  await redis.run(client => client.lpush('list', 'x'))
  assert.equal(await moved, 'x')
  await eventually('it hears', () => tellUntilHeard(redis, heard))

  const slot = Number(await world.ask(world.nodes[0]!, 'CLUSTER', 'KEYSLOT', 'key-0'))
  const [from, to] = slot < 5462 ? [world.nodes[0]!, world.nodes[1]!] : slot < 10_924 ? [world.nodes[1]!, world.nodes[2]!] : [world.nodes[2]!, world.nodes[0]!]
  await world.moveSlot(slot, from, to)
  assert.equal(await redis.run(client => client.get('key-0')), 'key-0')

  await from.kill()
  await eventually('what lies elsewhere is served', () => redis.run(client => client.get('key-0')).then(value => value === 'key-0', () => false))
  await eventually('it hears on', () => tellUntilHeard(redis, heard))
  await from.run()
  await eventually('all is served', () => redis.run(client => runBatch(client, keys.map(key => ['GET', key]))).then(values => values.every((value, n) => value === keys[n]), () => false))
})

test('what is closed fails what waits, and calls no more', async t => {
  const server = await RedisServer.start(t)
  const { redis } = await open(t, { url: server.url })
  const blocked = assert.rejects(redis.another('blocking').blmove('list', 'list', 'RIGHT', 'RIGHT', 10))
  await server.kill()
  const waiting = assert.rejects(redis.run(client => client.get('a')), isUnavailable(/./))
  const offline = assert.rejects(redis.another('blocking').blmove('list', 'list', 'RIGHT', 'RIGHT', 10))
  await redis.close()
  await Promise.all([blocked, waiting, offline])
  await assert.rejects(redis.run(client => client.get('a')), isUnavailable(/closed/))
  assert.throws(() => redis.another('blocking'), isUnavailable(/closed/))
})

test('none of this has made the process warn of anything', () => {
  assert.deepEqual(warnings, [])
})

interface Heard {
  client: RedisClient
  texts: string[]
}

function listen (client: RedisClient): Heard {
  const texts: string[] = []
  client.on('message', (_channel: string, text: string) => { texts.push(text) })
  return { client, texts }
}

async function tellUntilHeard (redis: RedisConnection, { texts }: Heard): Promise<boolean> {
  const text = `news ${Math.random()}`
  await redis.run(client => client.publish('news', text)).catch(() => undefined)
  return await pollUntil(async () => texts.includes(text), 100)
}

function streamOf (client: RedisClient): unknown {
  return (client as unknown as { stream: unknown }).stream
}

/** Speaks as much of the protocol as the connection needs, and loads for as long as it is told to. */
class LoadingServer {
  isLoading = true
  refusal: string | undefined
  url = ''

  static async start (t: TestContext): Promise<LoadingServer> {
    const server = new LoadingServer()
    const sockets = new Set<Socket>()
    const listening = createServer(socket => {
      sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)))
      socket.setEncoding('latin1').on('data', (text: unknown) => { for (const name of commandsIn(String(text))) socket.write(server.#answer(name)) })
    }).listen(0, '127.0.0.1')
    await once(listening, 'listening')
    server.url = `redis://127.0.0.1:${(listening.address() as AddressInfo).port}`
    t.after(async () => {
      listening.close()
      for (const socket of sockets) socket.destroy()
      await once(listening, 'close')
    })
    return server
  }

  #answer (name: string): string {
    const info = `loading:${this.isLoading ? 1 : 0}\r\nloading_eta_seconds:1\r\n`
    if (name === 'info') return `$${info.length}\r\n${info}\r\n`
    if (name === 'client') return '+OK\r\n'
    if (this.refusal !== undefined) return `-${this.refusal}\r\n`
    return name === 'ping' ? '+PONG\r\n' : '$5\r\nvalue\r\n'
  }
}

/** The first word of each command, of which none is longer than a packet. */
function commandsIn (text: string): string[] {
  return [...text.matchAll(/\*\d+\r\n\$\d+\r\n([A-Za-z]+)/g)].map(([, name = '']) => name.toLowerCase())
}
