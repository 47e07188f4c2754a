/**
 * Networks without sandboxes in them, as many as a machine would not carry of those: the daemon's own parts (addresses, packet filter,
 * slots, network server) in a process that is started in a namespace to measure in. Answers SlotFigures as JSON.
 *
 *     network-slots.ts '{"hostId": …, "dir": …, …}'   SlotTask
 */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import type { HeldNetwork, NetworkSpec } from '../src/services/network/network-manager.ts'
import { openNetwork, type OpenNetwork } from '../src/services/network/open-network.ts'
import { defaultPools } from '../src/services/network/network-settings.ts'
import { runChild } from './child.ts'
import { timed } from './contestant.ts'
import { findPids, readProcessMemory } from './machine.ts'
import { egressRules } from './network-rules.ts'

export interface SlotTask {
  hostId: string
  dir: string
  resolver: string
  /** How many networks are there beside the one that is measured, one after the other. */
  present: number[]
  n: number
  /** What is left of another run is removed, and nothing is measured. */
  isReclaiming?: boolean
}

export interface SlotFigures {
  present: number
  /** Milliseconds throughout. */
  setup: number[]
  /** Twenty at once: of each, which may reach the internet, or what rules say. */
  setupTogether: number[]
  setupRulesTogether: number[]
  tearDown: number[]
  tearDownTogether: number[]
  tearDownRulesTogether: number[]
  change: Record<string, number[]>
  reconcile: number[]
  reconcileAndServe: number[]
  /** KiB. */
  serverRss: number
  dns: { names: number[], known: number[] }
}

const together = 20
const batch = 32
// The pool is filled up when half of it is left, and twenty come at once.
const poolSize = 64
const reconciliations = 3
// Until what runs often is compiled.
const warmUps = 4
const apiPort = 8070
const signal = new AbortController().signal

const specOf = (egress: NetworkSpec['egress']): NetworkSpec => ({ egress, publish: [], gateway: false })
const kinds: ReadonlyArray<NetworkSpec['egress']> = ['internet', egressRules, 'none']

class Bench {
  readonly #task: SlotTask
  readonly #held = new Map<string, { spec: NetworkSpec, held: HeldNetwork }>()
  #network: OpenNetwork | undefined

  constructor (task: SlotTask) {
    this.#task = task
  }

  get network (): OpenNetwork {
    if (!this.#network) throw new Error('no network is open')
    return this.#network
  }

  async open (): Promise<void> {
    const { hostId, dir, resolver, isReclaiming = false } = this.#task
    this.#network = await openNetwork({
      hostId,
      version: 'bench',
      ...defaultPools,
      poolSize,
      isReclaiming,
      defaultEgress: 'none',
      resolvers: [resolver],
      publishAddress: '127.0.0.1',
      configureHost: true,
      apiPort,
      serverDir: join(dir, 'network-server'),
      serverPath: fileURLToPath(new URL('../src/network-server.ts', import.meta.url)),
      serverLogPath: join(dir, 'network-server.log'),
      logLevel: 'warn',
      logger: pino({ level: 'warn' }, pino.destination({ dest: 2, sync: true })),
      onDecision: () => {},
    })
    await this.#network.adopt([...this.#held].map(([sandboxId, network]) => ({ sandboxId, ...network })))
    if (!isReclaiming) await this.#network.exposeApi(apiPort)
  }

  async setup (id: string, egress: NetworkSpec['egress']): Promise<HeldNetwork> {
    const spec = specOf(egress)
    const held = await this.network.manager.setup(id, spec, signal)
    this.#held.set(id, { spec, held })
    return held
  }

  async tearDown (id: string): Promise<void> {
    await this.network.manager.tearDown(id)
    this.#held.delete(id)
  }

  /** Networks that stay, with rules of every kind. */
  async fill (count: number): Promise<void> {
    while (this.#held.size < count) {
      const first = this.#held.size
      await Promise.all(Array.from({ length: Math.min(batch, count - first) }, (_, i) => this.setup(`present-${first + i}`, kinds[(first + i) % kinds.length] ?? 'none')))
    }
  }

  /** Resolves when enough are ready and nobody makes any. */
  async settle (): Promise<void> {
    for (;;) {
      const { ready, building } = this.network.slots()
      if (ready > poolSize / 2 && building === 0) return
      await delay(20)
    }
  }

  async measure (present: number): Promise<SlotFigures> {
    await this.fill(present)
    const { n } = this.#task
    const times = { setup: [], setupTogether: [], setupRulesTogether: [], tearDown: [], tearDownTogether: [], tearDownRulesTogether: [], reconcile: [], reconcileAndServe: [] }
    const figures: SlotFigures = { present, ...times, change: {}, serverRss: 0, dns: { names: [], known: [] } }
    for (let round = -warmUps; round < n; round++) {
      await this.settle()
      const setupMs = await timed(() => this.setup('one', 'internet'))
      const changes = await this.#changes('one')
      const tearDownMs = await timed(() => this.tearDown('one'))
      if (round < 0) continue
      figures.setup.push(setupMs)
      figures.tearDown.push(tearDownMs)
      for (const [name, durationMs] of changes) (figures.change[name] ??= []).push(durationMs)
    }
    for (let round = -warmUps; round < Math.ceil(n / 3); round++) {
      for (const [name, egress] of [['setupTogether', 'internet'], ['setupRulesTogether', egressRules]] as const) {
        await this.settle()
        const ids = Array.from({ length: together }, (_, i) => `together-${i}`)
        const durations = await Promise.all(ids.map(id => timed(() => this.setup(id, egress))))
        const tearDownMs = await timed(() => Promise.all(ids.map(id => this.tearDown(id))))
        if (round < 0) continue
        figures[name].push(...durations)
        figures[egress === 'internet' ? 'tearDownTogether' : 'tearDownRulesTogether'].push(tearDownMs)
      }
    }
    await this.#measureNames(figures)
    figures.serverRss = await this.#serverRss()
    for (let round = 0; round < reconciliations && present > 0; round++) await this.#reconcile(figures)
    return figures
  }

  async #changes (id: string): Promise<Array<[string, number]>> {
    const steps: Array<[string, NetworkSpec['egress']]> = [['internet → none', 'none'], ['none → internet', 'internet'], ['internet → rules', egressRules], ['rules → none', 'none']]
    const durations: Array<[string, number]> = []
    for (const [name, egress] of steps) durations.push([name, await timed(() => this.network.manager.change(id, specOf(egress)))])
    return durations
  }

  /** Asks from a namespace in the place of a sandbox. */
  async #measureNames ({ present, dns }: SlotFigures): Promise<void> {
    const { netns, gateway4 } = await this.setup('asking', 'internet').then(held => ({ netns: held.netnsPath, gateway4: held.gateway4 }))
    const count = this.#task.n * 4
    const client = fileURLToPath(new URL('./network-client.ts', import.meta.url))
    for (const kind of ['names', 'known'] as const) {
      const names = Array.from({ length: count }, (_, i) => kind === 'known' ? `known${i % 5}.example.test` : `name${i}.${present}.example.test`)
      const argv = [process.execPath, '--disable-warning=ExperimentalWarning', client, 'dns', JSON.stringify({ server: gateway4, names })]
      const { exitCode, stdout, stderr } = await runChild('nsenter', [`--net=${netns}`, ...argv])
      if (exitCode !== 0) throw new Error(`the name server of sandboxes did not answer: ${stderr}`)
      dns[kind].push(...(JSON.parse(stdout) as number[]).slice(kind === 'known' ? 5 : 0))
    }
    await this.tearDown('asking')
  }

  /** A daemon that ends, and the next. */
  async #reconcile (figures: SlotFigures): Promise<void> {
    await this.network.close()
    const startedMs = performance.now()
    await this.open()
    figures.reconcile.push(performance.now() - startedMs)
    await this.network.manager.change('present-0', specOf('internet'))
    figures.reconcileAndServe.push(performance.now() - startedMs)
  }

  async #serverRss (): Promise<number> {
    const [pid] = await findPids('node', this.#task.dir)
    return pid === undefined ? NaN : (await readProcessMemory(pid)).rssKiB
  }
}

const task = JSON.parse(process.argv[2] ?? '{}') as SlotTask
const bench = new Bench(task)
await bench.open()
try {
  if (!task.isReclaiming) {
    const figures: SlotFigures[] = []
    for (const present of task.present) {
      process.stderr.write(`bench: ${present} networks present\n`)
      figures.push(await bench.measure(present))
    }
    process.stdout.write(JSON.stringify(figures))
  }
} finally {
  await bench.network.reclaim()
}
