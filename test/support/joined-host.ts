/** The smallest fleet: a real Redis, a real gateway, and a real host that has joined it and can be reached through it. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pollUntil } from '../../src/lib/poll.ts'
import { freePort } from './free-port.ts'
import { RedisServer } from './redis-server.ts'
import { TestDaemon, type Teardown } from './test-daemon.ts'
import { TestGateway } from './test-gateway.ts'

export interface JoinedHost {
  redis: RedisServer
  gateway: TestGateway
  daemon: TestDaemon
  workerId: string
}

const joinsWithinMs = 60_000

export interface JoinedHostOptions {
  env?: Record<string, string>
  /** It takes tasks of the fleet. */
  takesTasks?: boolean
}

export async function startJoinedHost (t: Teardown, { env = {}, takesTasks = false }: JoinedHostOptions = {}): Promise<JoinedHost> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-joined-'))
  const redis = await RedisServer.start(t)
  const gateway = await TestGateway.start(t, { redisUrl: redis.url })
  await gateway.ready()
  const tokenFile = join(dir, 'worker.token')
  await writeFile(tokenFile, await gateway.makeToken('worker'), { mode: 0o600 })
  const port = await freePort()
  const daemon = await TestDaemon.start(t, {
    args: [
      '--listen', `127.0.0.1:${port}`, '--gateway', gateway.grpcTarget, '--gateway-token-file', tokenFile, '--advertise', `http://127.0.0.1:${port}`,
      ...takesTasks ? ['--redis', redis.url] : [],
    ],
    env,
  })
  t.after(() => rm(dir, { recursive: true, force: true }))
  const { hostId: workerId } = daemon
  assert.ok(await pollUntil(async () => (await gateway.request('GET', `/v1/workers/${workerId}/api/v1/host`)).status === 200, joinsWithinMs), `the host did not join:\n${daemon.errors()}${gateway.errors()}`)
  return { redis, gateway, daemon, workerId }
}
