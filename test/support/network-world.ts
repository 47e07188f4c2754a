/**
 * A small world for a daemon: a network namespace that is its host, and one that is everything outside, with servers in it. Nothing of
 * the machine's own network is touched.
 *
 *     sandbox ─ veth ─ host (198.51.100.2, 2001:db8:ff::2) ─ veth ─ outside (198.51.100.1, 2001:db8:ff::1)
 *                                                                   203.0.113.0/24, 2001:db8:1::/64: servers with names
 *                                                                   10.99.0.1: a private network; 169.254.169.254: metadata
 */
import assert from 'node:assert/strict'
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import type { NetworkRequest } from '../../src/schemas/network.ts'
import type { Sandbox, SandboxCreate } from '../../src/schemas/sandbox.ts'
import type { HeldNetwork } from '../../src/services/network/network-manager.ts'
import { recordPath } from './host-surgery.ts'
import { makeProbeImage, ProbeClient, probeEntrypoint } from './probe-client.ts'
import { berth, TestDaemon, type Teardown } from './test-daemon.ts'

const run = promisify(execFile)
const node = new URL('../../bin/node24', import.meta.url).pathname

/** Addresses of the servers outside, each with all that outside-servers.ts serves. */
export const outside = Object.freeze({
  router4: '198.51.100.1',
  router6: '2001:db8:ff::1',
  web4: '203.0.113.10',
  web6: '2001:db8:1::10',
  other4: '203.0.113.20',
  other6: '2001:db8:1::20',
  dns4: '203.0.113.53',
  /** A name server that nobody configured. */
  foreignDns4: '203.0.113.54',
  foreignDns6: '2001:db8:1::54',
  private4: '10.99.0.1',
  private6: 'fd99::1',
  inner4: '10.99.0.2',
  metadata4: '169.254.169.254',
  metadata6: 'fd00:ec2::254',
})

const [pool4, pool6] = ['10.200.0.0/16', 'fd00:a1b2::/64']

export const worldHost = Object.freeze({ ipv4: '198.51.100.2', ipv6: '2001:db8:ff::2' })

/** What stands behind names that the world's name server knows; it answers NXDOMAIN to all others. */
export const names: Readonly<Record<string, readonly string[]>> = Object.freeze({
  'allowed.test': [outside.web4, outside.web6],
  'deep.allowed.test': [outside.web4, outside.web6],
  // On the address of an allowed name, as on a shared front.
  'forbidden.test': [outside.web4, outside.web6],
  'other.test': [outside.other4, outside.other6],
  'git.test': [outside.web4, outside.web6],
  'a.wild.test': [outside.web4, outside.web6],
  'b.a.wild.test': [outside.web4, outside.web6],
  'wild.test': [outside.web4, outside.web6],
  'rebound.test': [outside.private4],
  'inside.test': [outside.inner4],
  'metadata.test': [outside.metadata4],
  'host.test': [worldHost.ipv4],
})

/** Both ends of a sandbox's link. */
export interface SandboxLink {
  netns: string
  /** The host's end. */
  device: string
  mac: string
  gatewayMac: string
}

/** A sandbox that does what a test asks it. */
export interface ProbedSandbox {
  id: string
  daemon: TestDaemon
  probe: ProbeClient
  ipv4: string
  ipv6: string
}

export class NetworkWorld {
  readonly hostNs: string
  readonly outsideNs: string
  /** What has been started in the world last ends first. */
  readonly #ends: Array<() => Promise<void>> = []
  readonly #t: Teardown = { after: end => { this.#ends.unshift(end) } }
  #servers: ChildProcess | undefined
  #image: string | undefined
  readonly #lines: string[] = []
  readonly #marks = new Map<string, () => void>()

  private constructor (tag: string) {
    this.hostNs = `bw${tag}h`
    this.outsideNs = `bw${tag}o`
  }

  static async start (t: Teardown): Promise<NetworkWorld> {
    const world = new NetworkWorld(randomBytes(4).toString('hex'))
    t.after(() => world.#end())
    await world.#build()
    await world.#serve()
    return world
  }

  /** A daemon whose host is this world. */
  async daemon (options: { env?: Record<string, string>, args?: string[] } = {}): Promise<TestDaemon> {
    return await TestDaemon.start(this.#t, {
      command: [...this.#enter(this.hostNs), berth, 'serve'],
      isRemote: true,
      args: ['--configure-host', ...options.args ?? []],
      env: { BERTH_NETWORK_RESOLVERS: outside.dns4, BERTH_NETWORK_POOL_SIZE: '2', ...options.env },
    })
  }

  /** A probe in the host's place, or outside. */
  probe (where: 'host' | 'outside'): ProbeClient {
    return ProbeClient.inNamespace(this.#t, where === 'host' ? this.hostNs : this.outsideNs)
  }

  /** A sandbox whose program is a probe. */
  async sandbox (daemon: TestDaemon, network: NetworkRequest, more: Partial<SandboxCreate> = {}): Promise<ProbedSandbox> {
    const created = await daemon.create({ image: this.image, entrypoint: [...probeEntrypoint], network, ...more })
    return await this.probed(daemon, created)
  }

  /** A probe's sandbox that runs. */
  async probed (daemon: TestDaemon, { id, network: { ipv4 = '', ipv6 = '' } }: Sandbox): Promise<ProbedSandbox> {
    const probe = ProbeClient.inSandbox(this.#t, ipv4, this.hostNs)
    await probe.ask('ping')
    return { id, daemon, probe, ipv4, ipv6 }
  }

  /** What the record of a sandbox says of its network. */
  async heldBy ({ daemon, id }: Pick<ProbedSandbox, 'daemon' | 'id'>): Promise<HeldNetwork> {
    return (JSON.parse(await readFile(recordPath(daemon, id), 'utf8')) as { heldNetwork: HeldNetwork }).heldNetwork
  }

  /** What the name of its namespace, `berth-<tag>-<slot>`, says of a sandbox's link. */
  async linkOf (sandbox: Pick<ProbedSandbox, 'daemon' | 'id'>): Promise<SandboxLink> {
    const { netnsPath } = await this.heldBy(sandbox)
    const [, netns = '', tag = '', slot = ''] = /\/(berth-(\w+)-(\w+))$/.exec(netnsPath) ?? []
    return { netns, device: `bv${tag}${slot}`, mac: `02:00:00:00:${slot.slice(0, 2)}:${slot.slice(2)}`, gatewayMac: '02:00:00:ff:ff:01' }
  }

  /** Puts frames on a sandbox's link, as somebody does who has taken over the sandbox's own kernel. */
  async sendFrames ({ netns }: SandboxLink, frames: string[]): Promise<void> {
    await this.#in(netns, [node, new URL('./frame-sender.ts', import.meta.url).pathname, 'eth0', ...frames])
  }

  /** An image with a probe in it. */
  get image (): string {
    this.#image ??= `dir:${makeProbeImage(this.#t)}`
    return this.#image
  }

  /** Runs a program in the host's namespace. */
  async onHost (...argv: string[]): Promise<string> {
    return await this.#in(this.hostNs, argv)
  }

  /** Runs a program outside. */
  async outside (...argv: string[]): Promise<string> {
    return await this.#in(this.outsideNs, argv)
  }

  /** What daemons have on this host: tables of the packet filter, links, addresses. */
  async parts (): Promise<string[]> {
    const [tables, links, addresses] = await Promise.all([
      this.onHost('nft', 'list', 'tables'), this.onHost('ip', '-o', 'link', 'show'), this.onHost('ip', '-o', 'address', 'show', 'dev', 'lo'),
    ])
    return [
      ...Array.from(tables.matchAll(/ (berth_\w+)$/gm), ([, name]) => `table ${name}`),
      ...Array.from(links.matchAll(/^\d+: (bv\w+)/gm), ([, name]) => `link ${name}`),
      ...Array.from(addresses.matchAll(/inet6? ((?:10\.200\.|fd00:a1b2:)\S+)/g), ([, address]) => `address ${address}`),
    ]
  }

  /** All that is not a daemon's on this host: rules, addresses, routes. */
  async foreignParts (): Promise<string> {
    const [ruleset, ...lists] = await Promise.all([
      this.onHost('nft', 'list', 'ruleset'), ...['address', 'route', '-6 route', 'rule'].map(what => this.onHost('ip', '-o', ...what.split(' '), 'show')),
    ])
    const isOurs = /10\.200\.|fd00:a1b2:|\bbv[0-9a-f]{10}/
    const ownLines = lists.flatMap(list => list.split('\n')).filter(line => !isOurs.test(line))
    return [ruleset?.replace(/^table inet berth_\w+ \{\n[^]*?^\}\n/gm, ''), ...ownLines].join('\n')
  }

  /** What a host forgets when it restarts. */
  async forget (): Promise<void> {
    await this.onHost('nft', 'flush', 'ruleset')
    for (const part of await this.parts()) {
      const [kind = '', name = ''] = part.split(' ')
      await this.onHost('ip', ...kind === 'link' ? ['link', 'delete', name] : ['address', 'delete', name, 'dev', 'lo'])
    }
    await this.onHost('sh', '-c', 'echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding')
  }

  /** Counts packets that leave the host and match, words of nft(8), from here on. */
  async watch (name: string, match: string): Promise<void> {
    const chain = `inet watch_${name} out`
    await this.onHost('nft', `add table inet watch_${name}; add chain ${chain} { type filter hook postrouting priority 300; }; add rule ${chain} ${match} counter`)
  }

  async watched (name: string): Promise<number> {
    return Number(/counter packets (\d+)/.exec(await this.onHost('nft', 'list', 'table', 'inet', `watch_${name}`))?.[1])
  }

  /** What reached the servers outside so far, a line each; outside-servers.ts says which. */
  async seen (): Promise<string[]> {
    // They write in order: what came before this is here once it is echoed.
    const mark = `mark ${randomBytes(8).toString('hex')}`
    const echoed = new Promise<void>(resolve => this.#marks.set(mark, resolve))
    this.#servers?.stdin?.write(`${mark}\n`)
    await echoed
    return [...this.#lines]
  }

  async #build (): Promise<void> {
    const { hostNs, outsideNs } = this
    await run('ip', ['netns', 'add', hostNs])
    await run('ip', ['netns', 'add', outsideNs])
    await this.#ip(hostNs, [
      'link set lo up',
      `link add name uplink type veth peer name downlink netns ${outsideNs}`,
      'link set uplink up',
      `address add ${worldHost.ipv4}/24 dev uplink`,
      `address add ${worldHost.ipv6}/64 dev uplink nodad`,
    ])
    await this.#ip(outsideNs, [
      'link set lo up',
      'link set downlink up',
      `address add ${outside.router4}/24 dev downlink`,
      `address add ${outside.router6}/64 dev downlink nodad`,
      // Whoever knows where sandboxes are may try to get in.
      `route add ${pool4} via ${worldHost.ipv4}`,
      `route add ${pool6} via ${worldHost.ipv6}`,
      ...Object.values(outside).filter(address => address !== outside.router4 && address !== outside.router6).map(address => `address add ${address}/${address.includes(':') ? 128 : 32} dev lo`),
    ])
    await this.#ip(hostNs, [`route add default via ${outside.router4}`, `route add default via ${outside.router6}`])
  }

  async #serve (): Promise<void> {
    const path = new URL('./outside-servers.ts', import.meta.url).pathname
    const servers = spawn('nsenter', [`--net=/run/netns/${this.outsideNs}`, node, path, JSON.stringify({ outside, names })], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#servers = servers
    const ready = Promise.withResolvers<void>()
    servers.once('exit', () => ready.reject(new Error('the servers outside have ended')))
    createInterface({ input: servers.stdout }).on('line', line => {
      if (line === 'ready') ready.resolve()
      else if (line.startsWith('mark ')) this.#marks.get(line)?.()
      else this.#lines.push(line)
    })
    await ready.promise
  }

  async #end (): Promise<void> {
    const failures: unknown[] = []
    for (const end of this.#ends) await end().catch((error: unknown) => failures.push(error))
    const left = await this.parts().catch(() => [])
    await this.#remove()
    if (failures.length > 0) throw failures[0]
    assert.deepEqual(left, [], 'nothing of a daemon is left on the host')
  }

  async #remove (): Promise<void> {
    const servers = this.#servers
    if (servers && servers.exitCode === null) {
      const exited = once(servers, 'exit')
      servers.kill('SIGKILL')
      await exited
    }
    for (const name of [this.hostNs, this.outsideNs]) await run('ip', ['netns', 'delete', name]).catch(() => {})
    const { stdout } = await run('ip', ['netns', 'list'])
    assert.ok(!stdout.includes(this.hostNs) && !stdout.includes(this.outsideNs), 'no namespace of the world is left')
  }

  #enter (ns: string): string[] {
    return ['nsenter', `--net=/run/netns/${ns}`]
  }

  async #in (ns: string, argv: string[]): Promise<string> {
    const [program = '', ...args] = [...this.#enter(ns), ...argv]
    return (await run(program, args, { maxBuffer: 16 * 1024 ** 2 })).stdout
  }

  async #ip (ns: string, lines: string[]): Promise<void> {
    const child = run('ip', ['-n', ns, '-batch', '-'])
    child.child.stdin?.end(`${lines.join('\n')}\n`)
    await child
  }
}
