/** The processes of a fleet in its network: each can be killed, and started again where it was. */
import type { ChildProcess } from 'node:child_process'
import { createWriteStream, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { berth, TestDaemon, type Teardown } from '../support/test-daemon.ts'
import { endProcess, type FleetWorld } from './fleet-world.ts'

const node = new URL('../../bin/node24', import.meta.url).pathname
const fakeHost = new URL('./fake-host.ts', import.meta.url).pathname
const client = new URL('./fleet-client.ts', import.meta.url).pathname

export interface FleetNode {
  name: string
  kill: () => Promise<void>
  start: () => Promise<void>
}

export interface FleetShape {
  world: FleetWorld
  dir: string
  gateways: readonly string[]
  fakeHosts: readonly string[]
  realHosts: readonly string[]
  leaseMs: number
}

export const restPort = 7080
const grpcPort = 7081
const redisPort = 6379
const readyWithinMs = 60_000

/** Where all of them lie, and what they are told. */
export class FleetNodes {
  readonly all: FleetNode[] = []
  readonly daemons: TestDaemon[] = []
  readonly tokenFile: string
  readonly redisUrl: string
  readonly #shape: FleetShape

  private constructor (shape: FleetShape) {
    this.#shape = shape
    this.tokenFile = join(shape.dir, 'gateway.token')
    this.redisUrl = `redis://${shape.world.node('redis').address}:${redisPort}`
  }

  static async start (t: Teardown, shape: FleetShape): Promise<FleetNodes> {
    const nodes = new FleetNodes(shape)
    t.after(async () => { for (const { kill } of nodes.all) await kill() })
    await nodes.#startRedis()
    for (const name of shape.gateways) await nodes.#startGateway(name)
    await Promise.all(shape.fakeHosts.map(name => nodes.#startFakeHost(name)))
    for (const name of shape.realHosts) await nodes.#startRealHost(t, name)
    return nodes
  }

  find (name: string): FleetNode {
    return this.all.find(one => one.name === name)!
  }

  get urls (): string[] {
    return this.#shape.gateways.map(name => `http://${this.#shape.world.node(name).address}:${restPort}`)
  }

  dirOf (name: string): string {
    return join(this.#shape.dir, name)
  }

  /** Runs a client to its end; answers what it wrote. */
  async client (args: readonly string[], input = ''): Promise<string[]> {
    const child = this.#shape.world.spawn('client', [node, client, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
    child.stdin!.end(input)
    const lines: string[] = []
    for await (const line of createInterface({ input: child.stdout! })) lines.push(line)
    if (child.exitCode === null) await new Promise(resolve => child.once('exit', resolve))
    if (child.exitCode !== 0) throw new Error(`fleet-client ${args[0]} ended with ${child.exitCode}`)
    return lines
  }

  async #startRedis (): Promise<void> {
    const dir = this.dirOf('redis')
    const { address } = this.#shape.world.node('redis')
    await this.#add('redis', ['redis-server', '--port', String(redisPort), '--bind', address, '127.0.0.1', '--protected-mode', 'no', '--dir', dir, '--save', '',
      '--appendonly', 'yes', '--appendfsync', 'always', '--loglevel', 'notice'], /Ready to accept connections/)
  }

  async #startGateway (name: string): Promise<void> {
    const { address } = this.#shape.world.node(name)
    await this.#add(name, [berth, 'gateway', '--redis', this.redisUrl, '--listen', `${address}:${restPort}`, '--grpc', `${address}:${grpcPort}`, '--token-file', this.tokenFile], /listens at/)
  }

  async #startFakeHost (name: string): Promise<void> {
    await this.#add(name, [node, fakeHost, this.dirOf(name), `hst_${name}`, this.redisUrl, this.#gatewayOf(name), this.tokenFile, 'fake', String(this.#shape.leaseMs)], /^ready/m)
  }

  async #startRealHost (t: Teardown, name: string): Promise<void> {
    const { world, leaseMs } = this.#shape
    const daemon = await TestDaemon.start(t, {
      command: [...world.prefix(name), berth, 'serve'],
      isRemote: true,
      args: ['--listen', `${world.node(name).address}:7070`, '--advertise', `http://${world.node(name).address}:7070`,
        '--redis', this.redisUrl, '--gateway', this.#gatewayOf(name), '--gateway-token-file', this.tokenFile, '--pool', 'real'],
      env: { BERTH_TASK_LEASE_MS: String(leaseMs) },
    })
    this.daemons.push(daemon)
    this.all.push({ name, kill: async () => { await daemon.end('SIGKILL') }, start: () => daemon.start() })
  }

  #gatewayOf (name: string): string {
    const { gateways, fakeHosts, realHosts, world } = this.#shape
    const index = [...fakeHosts, ...realHosts].indexOf(name)
    return `${world.node(gateways[index % gateways.length]!).address}:${grpcPort}`
  }

  async #add (name: string, argv: readonly string[], ready: RegExp): Promise<void> {
    const dir = this.dirOf(name)
    mkdirSync(dir, { recursive: true })
    let child: ChildProcess | undefined
    const start = async () => {
      child = this.#shape.world.spawn(name, argv, { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env['PATH'] ?? '' } })
      const log = createWriteStream(join(dir, 'process.log'), { flags: 'a' })
      let output = ''
      child.stdout!.on('data', (bytes: Buffer) => { output += bytes.toString() })
      child.stdout!.pipe(log, { end: false })
      child.stderr!.pipe(log, { end: false })
      for (const until = Date.now() + readyWithinMs; !ready.test(output); await delay(10)) {
        if (child.exitCode !== null || child.signalCode !== null || Date.now() > until) throw new Error(`${name} did not become ready:\n${output}\n${readFileSync(join(dir, 'process.log'), 'utf8').slice(-4000)}`)
      }
    }
    this.all.push({ name, start, kill: () => endProcess(child) })
    await start()
  }
}
