/** A master, a replica and sentinels that watch them, all real. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { pollUntil } from '../../src/lib/poll.ts'
import { freePort } from './free-port.ts'
import { RedisServer } from './redis-server.ts'
import type { Teardown } from './test-daemon.ts'

export interface SentinelWorld {
  url: string
  master: RedisServer
  replica: RedisServer
}

const readyWithinMs = 30_000

/** `password`: of the servers; `sentinelPassword`: of the sentinels. Resolves once the sentinels know the replica. */
export async function startSentinels (t: Teardown, { password }: { password?: string } = {}): Promise<SentinelWorld> {
  const auth = password === undefined ? [] : ['--requirepass', password, '--masterauth', password]
  const master = await RedisServer.start(t, { args: auth })
  const replica = await RedisServer.start(t, { args: [...auth, '--replicaof', `127.0.0.1 ${master.port}`] })
  const dir = await mkdtemp(join(tmpdir(), 'berth-sentinel-'))
  const children: ChildProcess[] = []
  t.after(async () => {
    for (const child of children) {
      const ended = once(child, 'exit')
      child.kill('SIGKILL')
      await ended
    }
    await rm(dir, { recursive: true, force: true })
  })
  const ports: number[] = []
  for (let n = 0; n < 2; n++) {
    const port = await freePort()
    const file = join(dir, `sentinel-${n}.conf`)
    await writeFile(file, [
      `port ${port}`, 'bind 127.0.0.1', `dir ${dir}`, `sentinel monitor main 127.0.0.1 ${master.port} 2`,
      'sentinel down-after-milliseconds main 500', 'sentinel failover-timeout main 3000', 'sentinel parallel-syncs main 1',
      ...password === undefined ? [] : [`sentinel auth-pass main ${password}`, `requirepass ${password}`, `sentinel sentinel-pass ${password}`],
    ].join('\n'))
    children.push(spawn('redis-server', [file, '--sentinel', '--loglevel', 'warning'], { stdio: 'ignore', cwd: dir }))
    ports.push(port)
  }
  for (const port of ports) if (!await pollUntil(() => knowsAll(port, password), readyWithinMs)) throw new Error('the sentinels did not find each other')
  return { url: `redis+sentinel://${ports.map(port => `127.0.0.1:${port}`).join(',')}/main`, master, replica }
}

async function knowsAll (port: number, password: string | undefined): Promise<boolean> {
  const client = new Redis({ port, ...password !== undefined && { password }, lazyConnect: true, retryStrategy: () => null })
  client.on('error', () => {})
  try {
    await client.connect()
    const [facts] = await client.call('SENTINEL', 'MASTERS') as string[][]
    const fact = (name: string): string | undefined => facts?.[facts.indexOf(name) + 1]
    return fact('num-slaves') === '1' && fact('num-other-sentinels') === '1' && fact('flags') === 'master'
  } catch {
    return false
  } finally {
    client.disconnect()
  }
}
