/** A Redis of our own, on a unix socket in a directory of its own, that writes each change down. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { endChild } from './child.ts'

/** When what was written is made durable: before each answer, or once a second (redis.conf, appendfsync). */
export type RedisDurability = 'always' | 'everysec'

const readyWithinMs = 10_000

export class RedisServer {
  readonly socketPath: string
  readonly #child: ChildProcess
  #stderr = ''

  private constructor (dir: string, durability: RedisDurability) {
    this.socketPath = join(dir, 'redis.sock')
    // Without a configuration file: what the machine's own Redis is set to says nothing here.
    this.#child = spawn('redis-server', ['--port', '0', '--unixsocket', this.socketPath, '--dir', dir, '--save', '', '--appendonly', 'yes', '--appendfsync', durability], {
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    })
    this.#child.on('error', error => { this.#stderr += String(error) })
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => { this.#stderr += text })
  }

  static async start (dir: string, durability: RedisDurability): Promise<RedisServer> {
    await mkdir(dir, { recursive: true })
    const server = new RedisServer(dir, durability)
    for (const until = Date.now() + readyWithinMs; !await canConnect(server.socketPath); await delay(10)) {
      if (server.#child.exitCode !== null || Date.now() > until) throw new Error(`redis-server did not become ready: ${server.#stderr}`)
    }
    return server
  }

  async close (): Promise<void> {
    await endChild(this.#child, 'SIGTERM')
  }
}

function canConnect (path: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(path)
    socket.once('connect', () => { socket.destroy(); resolve(true) })
    socket.once('error', () => resolve(false))
  })
}
