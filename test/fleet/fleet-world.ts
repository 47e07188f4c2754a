/**
 * A network for a fleet: one namespace that is the switch, and one for each node, all of this test's own.
 *
 *     node (10.91.0.n) ─ veth ─ bridge in the switch ─ veth ─ node …
 *
 * Two nodes are parted by rules in the switch, so that neither hears from the other and nobody is told.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { promisify } from 'node:util'
import type { Teardown } from '../support/test-daemon.ts'

const run = promisify(execFile)

export interface Node {
  name: string
  netns: string
  address: string
}

export class FleetWorld {
  readonly #tag = randomBytes(3).toString('hex')
  readonly #nodes: Node[] = []
  readonly #parted = new Set<string>()

  static async make (t: Teardown, names: readonly string[]): Promise<FleetWorld> {
    const world = new FleetWorld()
    t.after(() => world.#remove())
    await run('ip', ['netns', 'add', world.#switch])
    await world.#inSwitch('ip', 'link', 'add', 'br0', 'type', 'bridge')
    await world.#inSwitch('ip', 'link', 'set', 'br0', 'up')
    await world.#inSwitch('nft', 'add table bridge fleet; add chain bridge fleet forward { type filter hook forward priority 0; }; ' +
      'add set bridge fleet parted { type ipv4_addr . ipv4_addr; }; add rule bridge fleet forward ip saddr . ip daddr @parted drop')
    for (const [index, name] of names.entries()) await world.#add(name, index + 2)
    return world
  }

  node (name: string): Node {
    return this.#nodes.find(node => node.name === name)!
  }

  /** Starts a program in a node's namespace. */
  spawn (name: string, argv: readonly string[], options: Parameters<typeof spawn>[2] = {}): ChildProcess {
    const [program = '', ...args] = [...this.prefix(name), ...argv]
    return spawn(program, args, options)
  }

  /** As the begin of a command line, for those who start programs themselves. */
  prefix (name: string): string[] {
    return ['nsenter', `--net=/run/netns/${this.node(name).netns}`]
  }

  /** From now on two nodes hear nothing of each other. */
  async part (a: string, b: string): Promise<void> {
    const key = [a, b].sort().join(' ')
    if (this.#parted.has(key)) return
    this.#parted.add(key)
    await this.#inSwitch('nft', `add element bridge fleet parted { ${this.#pairs(a, b)} }`)
  }

  async join (a: string, b: string): Promise<void> {
    if (!this.#parted.delete([a, b].sort().join(' '))) return
    await this.#inSwitch('nft', `delete element bridge fleet parted { ${this.#pairs(a, b)} }`)
  }

  async joinAll (): Promise<void> {
    this.#parted.clear()
    await this.#inSwitch('nft', 'flush set bridge fleet parted')
  }

  get #switch (): string { return `bfs-${this.#tag}` }

  #pairs (a: string, b: string): string {
    const [one, other] = [this.node(a).address, this.node(b).address]
    return `${one} . ${other}, ${other} . ${one}`
  }

  async #add (name: string, number: number): Promise<void> {
    const node = { name, netns: `bfn-${this.#tag}-${number}`, address: `10.91.0.${number}` }
    await run('ip', ['netns', 'add', node.netns])
    this.#nodes.push(node)
    await run('ip', ['-n', this.#switch, 'link', 'add', `p${number}`, 'type', 'veth', 'peer', 'name', 'fleet0', 'netns', node.netns])
    await this.#inSwitch('ip', 'link', 'set', `p${number}`, 'master', 'br0', 'up')
    for (const args of [['link', 'set', 'lo', 'up'], ['addr', 'add', `${node.address}/24`, 'dev', 'fleet0'], ['link', 'set', 'fleet0', 'up']]) {
      await run('ip', ['-n', node.netns, ...args])
    }
  }

  async #inSwitch (...argv: string[]): Promise<void> {
    await run('ip', ['netns', 'exec', this.#switch, ...argv])
  }

  async #remove (): Promise<void> {
    for (const { netns } of this.#nodes) await run('ip', ['netns', 'del', netns])
    await run('ip', ['netns', 'del', this.#switch])
  }
}

/** Ends a process that was started here. */
export async function endProcess (child: ChildProcess | undefined, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill(signal)
  await ended
}
