/**
 * Namespaces to measure networks in; nothing of the machine's own network is touched.
 *
 *     sandboxes of ours ─ host (forwards)        ─┐
 *                                                 ├─ outside: 203.0.113.10 (iperf3, HTTP), 203.0.113.53 (names)
 *     a sandbox by hand ─ bare (forwards, NAT)   ─┘
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { copyFile, mkdir, symlink, truncate, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { runIpBatch } from '../src/host/ip-batch.ts'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import { endChild, mustRun, runChild } from './child.ts'

/** Servers outside. */
export const outside = Object.freeze({ web: '203.0.113.10', dns: '203.0.113.53' })
export const largeFileMebibytes = 256
const bareSandbox = '192.0.2.2'

export const node = new URL('../bin/node24', import.meta.url).pathname

export class NetworkPlaces {
  readonly host: string
  readonly bare: string
  /** What the sandbox by hand enters. */
  readonly inner: string
  readonly #outside: string
  readonly #servers: ChildProcess[] = []

  private constructor (tag: string) {
    const names = ['h', 'b', 's', 'o'].map(letter => `bb${tag}${letter}`)
    this.host = names[0] ?? ''
    this.bare = names[1] ?? ''
    this.inner = names[2] ?? ''
    this.#outside = names[3] ?? ''
  }

  /** `dir` is what the web server outside serves. */
  static async open (stack: ResourceStack, dir: string): Promise<NetworkPlaces> {
    const places = new NetworkPlaces(randomBytes(4).toString('hex'))
    stack.defer('the namespaces to measure in', () => places.#close())
    await places.#build()
    await places.#serve(dir)
    return places
  }

  enter (netns: string): string[] {
    return ['nsenter', `--net=/run/netns/${netns}`]
  }

  /** Gives the sandbox by hand its addresses, which gVisor takes away at each start. */
  async readdressInner (): Promise<void> {
    await runIpBatch(['link set lo up', `addr replace ${bareSandbox}/30 dev eth0`, 'link set eth0 up', 'route replace default via 192.0.2.1'], { netns: this.inner })
  }

  async #build (): Promise<void> {
    const all = [this.host, this.bare, this.inner, this.#outside]
    await runIpBatch(all.map(name => `netns add ${name}`))
    const uplink = async (netns: string, letter: string, block: string) => {
      await runIpBatch([
        'link set lo up',
        `link add name uplink type veth peer name down${letter} netns ${this.#outside}`,
        'link set uplink up',
        `addr add ${block}.2/30 dev uplink`,
      ], { netns })
      await runIpBatch([`link set down${letter} up`, `addr add ${block}.1/30 dev down${letter}`], { netns: this.#outside })
      await runIpBatch([`route add default via ${block}.1`], { netns })
    }
    await runIpBatch(['link set lo up', ...Object.values(outside).map(address => `addr add ${address}/32 dev lo`)], { netns: this.#outside })
    await uplink(this.host, 'h', '198.51.100')
    await uplink(this.bare, 'b', '198.18.0')
    await runIpBatch([`link add name inner type veth peer name eth0 netns ${this.inner}`, 'addr add 192.0.2.1/30 dev inner', 'link set inner up'], { netns: this.bare })
    const inBare = this.enter(this.bare)
    await mustRun(inBare[0] ?? '', [...inBare.slice(1), 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward && nft "$1"', 'sh',
      'table ip nat { chain out { type nat hook postrouting priority srcnat; oifname "uplink" masquerade; }; }'])
  }

  async #serve (dir: string): Promise<void> {
    const [program = '', ...args] = this.enter(this.#outside)
    const start = (...command: string[]): ChildProcess => {
      const server = spawn(program, [...args, ...command], { stdio: ['ignore', 'pipe', 'inherit'], detached: true })
      this.#servers.push(server)
      return server
    }
    start('iperf3', '--server', '--bind', outside.web).stdout?.resume()
    start('busybox', 'httpd', '-f', '-p', `${outside.web}:80`, '-h', dir)
    const names = start(node, new URL('./network-names.ts', import.meta.url).pathname, outside.dns, outside.web)
    await Promise.race([once(names.stdout ?? names, 'data'), once(names, 'exit').then(() => { throw new Error('the name server outside has ended') })])
  }

  async #close (): Promise<void> {
    for (const server of this.#servers) await endChild(server, 'SIGKILL')
    for (const netns of [this.host, this.bare, this.inner, this.#outside]) await runChild('ip', ['netns', 'del', netns])
  }
}

/** A directory with what measures from the inside: iperf3, busybox, Node and a small program, and a large file. */
export async function makeNetworkImage (root: string): Promise<void> {
  const copy = async (from: string, to = from) => {
    await mkdir(dirname(join(root, to)), { recursive: true })
    await copyFile(from, join(root, to))
  }
  const nodePath = (await mustRun(node, ['-p', 'process.execPath'])).stdout.trim()
  const iperfPath = (await mustRun('sh', ['-c', 'command -v iperf3'])).stdout.trim()
  for (const [from, to] of [[nodePath, '/bin/node'], [iperfPath, '/bin/iperf3']] as const) {
    await copy(from, to)
    for (const [, path = ''] of (await mustRun('ldd', [from])).stdout.matchAll(/(\/\S+) \(/g)) await copy(path)
  }
  await copy((await mustRun('sh', ['-c', 'command -v busybox'])).stdout.trim(), '/bin/busybox')
  for (const name of ['sh', 'wget', 'dd', 'httpd', 'sleep']) await symlink('busybox', join(root, 'bin', name))
  for (const name of ['etc', 'tmp', 'proc', 'sys', 'dev', 'root', 'www']) await mkdir(join(root, name), { recursive: true })
  await copy(new URL('./network-page.ts', import.meta.url).pathname, '/network-page.ts')
  await makeLargeFile(join(root, 'www', 'large'))
}

export async function makeLargeFile (path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, '')
  await truncate(path, largeFileMebibytes * 1024 ** 2)
}
