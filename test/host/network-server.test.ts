/** The network server and its supervisor, in a network namespace of the test's own. Needs root. */
import assert from 'node:assert/strict'
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { promisify } from 'node:util'
import { pino } from 'pino'
import { isAlive, killProcess } from '../../src/host/process.ts'
import { findServerProcesses, type ServerProcess } from '../../src/host/server-process.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import type { NetworkDecision } from '../../src/schemas/network.ts'
import { parseEgress } from '../../src/services/network/egress-policy.ts'
import type { NetworkServerSettings, OpenRequest, ServerPolicy } from '../../src/services/network/server/network-protocol.ts'
import { NetworkServerSupervisor } from '../../src/services/network/server/network-server-supervisor.ts'
import { findLeftovers } from '../support/leftovers.ts'

const run = promisify(execFile)
const script = new URL('../../src/network-server.ts', import.meta.url).pathname
const gateway4 = '10.251.0.1'
/** Of `sbx_a`; in the test's namespace like everything else. */
const sandbox4 = '10.251.1.97'
const nflogGroup = 4242
const pools = { pool4: '10.251.0.0/16', pool6: 'fd00:251::/64' }

test('the server is nobody in every thread, and can only bind ports', async t => {
  const rig = await Rig.build(t)
  await rig.supervise().start()
  const { identity: { pid } } = rig.server()
  const tasks = await readdir(`/proc/${pid}/task`)
  assert.ok(tasks.length > 1)
  for (const task of tasks) {
    const status = await readFile(`/proc/${pid}/task/${task}/status`, 'utf8')
    const field = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)?.[1]?.replaceAll('\t', ' ')
    assert.deepEqual([field('Uid'), field('Gid'), field('Groups')], [nobodies, nobodies, ''], task)
    const capabilities = task === String(pid) ? '0000000000000400' : '0000000000000000'
    for (const set of ['CapPrm', 'CapEff']) assert.equal(field(set), capabilities, `${set} of ${task}`)
    for (const set of ['CapInh', 'CapAmb']) assert.equal(field(set), '0000000000000000', `${set} of ${task}`)
    assert.deepEqual([field('NoNewPrivs'), field('Seccomp')], ['1', '2'], task)
  }
  assert.match(await readFile(`/proc/${pid}/task/${pid}/status`, 'utf8'), /^CapBnd:\s*0000000000000000$/m)
  assert.equal((await stat(rig.dir)).mode & 0o777, 0o700)
  assert.equal((await stat(join(rig.dir, 'control.sock'))).mode & 0o777, 0o600)
  assert.equal((await readFile(join(rig.dir, 'pid'), 'utf8')).trim(), String(pid))
})

const nobodies = '65534 65534 65534 65534'

test('what the packet filter refuses is a decision of the sandbox behind the device, alike ones as one', async t => {
  const rig = await Rig.build(t)
  const supervisor = rig.supervise()
  await supervisor.start()
  await supervisor.setPolicy(policyOf('sbx_a', 'lo'))
  await rig.sendPackets(3)
  await rig.heard(3)
  const [{ at, count, ...decision } = assert.fail()] = rig.decisions
  assert.deepEqual(decision, { sandboxId: 'sbx_a', kind: 'packet', action: 'denied', reason: 'no_rule', protocol: 'udp', address: '127.0.0.9', port: 9 })
  assert.ok(Math.abs(Date.parse(at) - Date.now()) < 60_000)
  assert.ok(count >= 1)
  await supervisor.removePolicy('sbx_a')
  await supervisor.setPolicy(policyOf('sbx_b', 'lo'))
  await rig.sendPackets(1)
  await rig.heard(4)
  assert.deepEqual(rig.decisions.slice(-1).map(({ sandboxId, count }) => [sandboxId, count]), [['sbx_b', 1]])
})

test('a server that is killed comes back with the policies of the moment, and whoever changes one meanwhile waits', async t => {
  const rig = await Rig.build(t)
  const supervisor = rig.supervise()
  await supervisor.start()
  const { identity } = rig.server()
  rig.policies = [policyOf('sbx_a', 'lo')]
  killProcess(identity.pid)
  await supervisor.setPolicy(policyOf('sbx_b', 'other'))
  assert.notEqual(rig.server().identity.pid, identity.pid)
  await rig.sendPackets(1)
  await rig.heard(1)
  assert.equal(rig.decisions[0]?.sandboxId, 'sbx_a')
  assert.equal((await rig.status()).sandboxes, 2)
})

test('the next daemon takes the server over, hears what it missed, and nothing twice', async t => {
  const rig = await Rig.build(t)
  rig.policies = [policyOf('sbx_a', 'lo')]
  const first = rig.supervise()
  await first.start()
  const { identity } = rig.server()
  await rig.sendPackets(1)
  await rig.heard(1)
  await first.close()
  await assert.rejects(first.setPolicy(policyOf('sbx_b', 'other')), { kind: 'unavailable', code: 'network_server_unavailable' })
  await rig.sendPackets(1)
  await rig.kept(2)
  const second = rig.supervise()
  await second.start()
  await rig.heard(2)
  await rig.sendPackets(1)
  await rig.heard(3)
  assert.deepEqual(rig.decisions.map(({ count }) => count), [1, 1, 1])
  assert.deepEqual(rig.server().identity, identity)
})

test('a server that has lost its pid file is found all the same', async t => {
  const rig = await Rig.build(t)
  const first = rig.supervise()
  await first.start()
  const { identity } = rig.server()
  await first.close()
  await rename(join(rig.dir, 'pid'), join(rig.dir, 'elsewhere'))
  await rig.supervise().start()
  assert.deepEqual(rig.server().identity, identity)
})

test('a server of another version is replaced, and what it had to say is heard first', async t => {
  const rig = await Rig.build(t)
  rig.policies = [policyOf('sbx_a', 'lo')]
  const first = rig.supervise()
  await first.start()
  const { identity } = rig.server()
  assert.equal(await rig.ask('first.test'), 'ENOTFOUND')
  await rig.heard(1)
  await first.close()
  assert.equal(await rig.ask('second.test'), 'ENOTFOUND')
  const second = rig.supervise({ version: '2' })
  await second.start()
  assert.equal(isAlive(identity), false)
  assert.equal((await rig.status()).version, '2')
  await rig.heard(2)
  assert.deepEqual(rig.decisions.map(({ kind, reason, name }) => [kind, reason, name]), [['dns', 'egress_none', 'first.test'], ['dns', 'egress_none', 'second.test']])
})

test('a server whose directory is gone ends by itself', async t => {
  const rig = await Rig.build(t)
  const supervisor = rig.supervise()
  await supervisor.start()
  await supervisor.close()
  await rm(rig.dir, { recursive: true })
  assert.ok(await pollUntil(async () => findServerProcesses('network-server.ts', rig.dir).length === 0, 20_000))
})

test('a server that cannot come up is a typed error, and comes up when it can', async t => {
  const rig = await Rig.build(t)
  const holder = await rig.serve(t, `net.createServer().listen(53, '${gateway4}', () => console.log('held'))`)
  const supervisor = rig.supervise()
  await assert.rejects(supervisor.start(), { kind: 'unavailable', code: 'network_server_unavailable' })
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  await supervisor.setPolicy(policyOf('sbx_a', 'lo'))
  assert.equal((await rig.status()).sandboxes, 1)
})

test('where other programs have the ports of every address, it listens at others', async t => {
  const rig = await Rig.build(t)
  await rig.serve(t, "net.createServer().listen(80, () => net.createServer().listen(443, () => dgram.createSocket('udp4').bind(53, () => console.log('held'))))")
  rig.policies = [policyOf('sbx_a', 'lo')]
  await rig.supervise({ ports: { dns: 1053, http: 1080, tls: 1443 } }).start()
  assert.equal(await rig.ask('some.test', 1053), 'ENOTFOUND')
  assert.equal(await rig.read(gateway4, 1080), 'ECONNRESET')
  assert.equal(await rig.read(gateway4, 1443), 'ECONNRESET')
})

test('ports are published once the policy is in force, privileged ones too, and a taken one changes nothing', async t => {
  const rig = await Rig.build(t)
  await rig.serve(t, `net.createServer(socket => socket.end('inside')).listen(7777, '${sandbox4}', () => console.log('up'))`)
  await rig.serve(t, "net.createServer(socket => socket.end('stranger')).listen(82, '127.0.0.1', () => console.log('up'))")
  const supervisor = rig.supervise()
  await supervisor.start()
  const policy = policyOf('sbx_a', 'lo', { publish: [{ port: 7777, hostPort: 81, protocol: 'tcp' }] })
  await supervisor.setPolicy(policy)
  assert.equal(await rig.read('127.0.0.1', 81), 'inside')
  await assert.rejects(supervisor.setPolicy({ ...policy, publish: [{ port: 7777, hostPort: 83, protocol: 'tcp' }, { port: 7777, hostPort: 82, protocol: 'tcp' }] }),
    { kind: 'conflict', code: 'port_taken', details: { hostPort: 82 } })
  assert.equal(await rig.read('127.0.0.1', 81), 'inside')
  assert.equal(await rig.read('127.0.0.1', 83), 'ECONNREFUSED')
  await supervisor.removePolicy('sbx_a')
  assert.equal(await rig.read('127.0.0.1', 81), 'ECONNREFUSED')
})

test('a port that is taken while the server restarts keeps no other policy from being in force, and is held when it is free', async t => {
  const rig = await Rig.build(t)
  await rig.serve(t, `net.createServer(socket => socket.end('inside')).listen(7777, '${sandbox4}', () => console.log('up'))`)
  const holder = await rig.serve(t, "net.createServer(socket => socket.end('stranger')).listen(82, '127.0.0.1', () => console.log('up'))")
  rig.policies = [policyOf('sbx_a', 'lo', { publish: [{ port: 7777, hostPort: 82, protocol: 'tcp' }] }), policyOf('sbx_b', 'other')]
  await rig.supervise().start()
  assert.equal((await rig.status()).sandboxes, 2)
  assert.equal(await rig.ask('some.test'), 'ENOTFOUND')
  holder.kill('SIGKILL')
  assert.ok(await pollUntil(async () => await rig.read('127.0.0.1', 82) === 'inside', 20_000))
})

test('a name with a port of its own is answered when the daemon has let the sandbox reach it, and not when it has not', async t => {
  const rig = await Rig.build(t)
  await rig.serve(t, nameServer)
  const supervisor = rig.supervise({ resolvers: ['127.0.0.53:5353'] })
  await supervisor.start()
  const egress = parseEgress({ allow: ['git.test:22', 'other.test:23'] }, pools)
  await supervisor.setPolicy(policyOf('sbx_a', 'lo', { egress }))
  assert.equal(await rig.ask('git.test'), '203.0.113.10')
  assert.deepEqual(rig.opened.map(({ sandboxId, addresses, port }) => ({ sandboxId, addresses, port })), [{ sandboxId: 'sbx_a', addresses: ['203.0.113.10'], port: 22 }])
  rig.isOpened = false
  assert.equal(await rig.ask('other.test'), 'ESERVFAIL')
  assert.equal(await rig.ask('foreign.test'), 'ENOTFOUND')
})

test('a connection through the proxy is cut when its policy is gone', async t => {
  const rig = await Rig.build(t)
  const supervisor = rig.supervise()
  await supervisor.start()
  await supervisor.setPolicy(policyOf('sbx_a', 'lo', { egress: parseEgress({ allow: ['git.test'] }, pools) }))
  const client = await rig.serve(t, `net.connect({ host: '${gateway4}', port: 443, localAddress: '${sandbox4}' }).on('connect', () => console.log('up')).on('error', error => process.exit(error.code === 'ECONNRESET' ? 0 : 1))`)
  assert.ok(await pollUntil(async () => (await rig.status()).connections === 1, 5000))
  const ended = once(client, 'exit')
  await supervisor.removePolicy('sbx_a')
  assert.deepEqual(await ended, [0, null])
  assert.equal((await rig.status()).connections, 0)
})

test('letting go while it starts leaves nothing behind that nobody finds', async t => {
  const rig = await Rig.build(t)
  const supervisor = rig.supervise()
  const started = supervisor.start().catch(() => undefined)
  await supervisor.end()
  await started
  assert.deepEqual(findServerProcesses('network-server.ts', rig.dir), [])
  await assert.rejects(stat(rig.dir), { code: 'ENOENT' })
})

/** Knows one address for every name. */
const nameServer = `
  const packet = require('dns-packet')
  const socket = require('dgram').createSocket('udp4')
  socket.on('message', (message, { port, address }) => {
    const { id, questions } = packet.decode(message)
    const answers = questions.filter(({ type }) => type === 'A').map(({ name }) => ({ name, type: 'A', ttl: 60, data: '203.0.113.10' }))
    socket.send(packet.encode({ type: 'response', id, questions, answers }), port, address)
  })
  socket.bind(5353, '127.0.0.53', () => console.log('up'))`

interface Status {
  pid: number
  version: string
  sandboxes: number
  connections: number
}

/** A namespace with a gateway's addresses and a filter that refuses and logs datagrams to 127.0.0.9 port 9, and what supervisors of one server hear. */
class Rig {
  readonly netns: string
  readonly base: string
  readonly decisions: Omit<NetworkDecision, 'seq'>[] = []
  readonly opened: OpenRequest[] = []
  policies: ServerPolicy[] = []
  isOpened = true
  readonly #supervisors: NetworkServerSupervisor[] = []

  private constructor (netns: string, base: string) {
    this.netns = netns
    this.base = base
  }

  get dir (): string { return join(this.base, 'network-server') }
  get logPath (): string { return join(this.base, 'log') }

  static async build (t: TestContext): Promise<Rig> {
    const rig = new Rig(`bns${randomBytes(5).toString('hex')}`, await mkdtemp(join(tmpdir(), 'berth-network-server-')))
    t.after(() => rig.#end())
    await run('ip', ['netns', 'add', rig.netns])
    await rig.inside('sh', '-c', `ip link set lo up && ip address add ${gateway4}/32 dev lo && ip address add fd00:251::1/128 dev lo nodad && ip address add ${sandbox4}/32 dev lo`)
    await rig.inside('nft', `table inet test { chain in { type filter hook input priority 0; iifname "lo" ip daddr 127.0.0.9 udp dport 9 log prefix "no_rule" group ${nflogGroup} drop; }; }`)
    return rig
  }

  supervise (settings: Partial<NetworkServerSettings> = {}): NetworkServerSupervisor {
    const supervisor = new NetworkServerSupervisor({
      dir: this.dir,
      command: ['/usr/bin/nsenter', `--net=/run/netns/${this.netns}`, process.execPath, script],
      logPath: this.logPath,
      settings: { version: '1', gateway4, gateway6: 'fd00:251::1', ...pools, nflogGroup, resolvers: [], publishAddress: '127.0.0.1', logLevel: 'info', ...settings },
      policies: () => this.policies,
      onDecision: decision => this.decisions.push(decision),
      onOpen: async request => {
        this.opened.push(request)
        return this.isOpened
      },
      logger: pino({ level: 'silent' }),
    })
    this.#supervisors.push(supervisor)
    return supervisor
  }

  async inside (...argv: string[]): Promise<string> {
    return (await run('nsenter', [`--net=/run/netns/${this.netns}`, ...argv])).stdout
  }

  async sendPackets (count: number): Promise<void> {
    await this.inside('bash', '-c', `for i in $(seq ${count}); do echo > /dev/udp/127.0.0.9/9; done`)
  }

  /** Has sandbox `sbx_a` ask for the address of a name; answers it, or the error's code. */
  async ask (name: string, port = 53): Promise<string> {
    const program = 'const resolver = new dns.promises.Resolver(); resolver.setLocalAddress(process.argv[1]); resolver.setServers([process.argv[2]]); ' +
      'resolver.resolve4(process.argv[3]).then(String, error => error.code).then(console.log)'
    return (await this.inside(process.execPath, '-e', program, sandbox4, `${gateway4}:${port}`, name)).trim()
  }

  /** Waits until so many packets have become decisions. */
  async heard (packets: number): Promise<void> {
    const sum = () => this.decisions.reduce((all, { count }) => all + count, 0)
    assert.ok(await pollUntil(async () => sum() >= packets, 10_000), `${sum()} of ${packets}: ${await readFile(this.logPath, 'utf8')}`)
    assert.equal(sum(), packets)
  }

  server (): ServerProcess {
    const found = findServerProcesses('network-server.ts', this.dir)
    assert.equal(found.length, 1)
    return found[0]!
  }

  async status (): Promise<Status> {
    return JSON.parse((await run('curl', ['-s', '--unix-socket', join(this.dir, 'control.sock'), 'http://server/status'])).stdout) as Status
  }

  /** What a TCP port of the namespace has to say, or the error's code. */
  async read (host: string, port: number): Promise<string> {
    const program = "net.connect(Number(process.argv[2]), process.argv[1]).on('data', data => console.log(String(data))).on('error', error => console.log(error.code))"
    return (await this.inside(process.execPath, '-e', program, host, String(port))).trim()
  }

  /** Waits until the server keeps so many events for a daemon that comes. */
  async kept (count: number): Promise<void> {
    const events = async () => (await run('curl', ['-s', '-m', '0.2', '--unix-socket', join(this.dir, 'control.sock'), 'http://server/events']).catch((error: { stdout: string }) => error)).stdout
    assert.ok(await pollUntil(async () => (await events()).trim().split('\n').length >= count, 10_000))
  }

  /** Runs a program in the namespace until the test is over; answers when it has written a line. */
  async serve (t: TestContext, program: string): Promise<ChildProcess> {
    const server = spawn('nsenter', [`--net=/run/netns/${this.netns}`, process.execPath, '-e', program], { stdio: ['ignore', 'pipe', 'inherit'], cwd: import.meta.dirname })
    t.after(() => server.kill('SIGKILL'))
    await once(server.stdout, 'data')
    return server
  }

  async #end (): Promise<void> {
    for (const supervisor of this.#supervisors) await supervisor.end()
    await run('ip', ['netns', 'delete', this.netns])
    assert.deepEqual(await findLeftovers({ dir: this.base, hostId: '' }), [])
    await rm(this.base, { recursive: true })
  }
}

function policyOf (sandboxId: string, device: string, more: Partial<ServerPolicy> = {}): ServerPolicy {
  const none = { addresses: [], domains: [] }
  const slot = Number.parseInt(Buffer.from(sandboxId).toString('hex').slice(-2), 16)
  return {
    sandboxId,
    device,
    ipv4: `10.251.1.${slot}`,
    ipv6: `fd00:251::1:${slot}`,
    egress: { mode: 'none', hasInternet: false, allow: none, deny: none, isProxied: false },
    hasGateway: false,
    publish: [],
    ...more,
  }
}
