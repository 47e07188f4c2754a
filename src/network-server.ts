/**
 * The network server's front door: `network-server.ts SETTINGS DIR`, started by the daemon's NetworkServerSupervisor, which it outlives.
 *
 * SETTINGS is a NetworkServerSettings as JSON, DIR the server's own directory (control socket, pid file): when that is gone, it ends. It is
 * root for as long as it opens what only root may, and nobody by the time a sandbox is known and anything of it is read.
 */
import { fstatSync, ftruncateSync, openSync, writeFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { pino, destination } from 'pino'
import { NflogReader } from './host/nflog.ts'
import { originalDestination } from './host/original-destination.ts'
import { dropPrivileges } from './host/privileges.ts'
import { EventRing } from './lib/event-ring.ts'
import { decideAddress, isNameResolvable, portsToOpen } from './services/network/egress-policy.ts'
import { DecisionRecorder } from './services/network/server/decision-recorder.ts'
import { DnsForwarder } from './services/network/server/dns-forwarder.ts'
import { EgressProxy } from './services/network/server/egress-proxy.ts'
import { NameResolver } from './services/network/server/name-resolver.ts'
import { NetworkControlServer } from './services/network/server/network-control-server.ts'
import type { NetworkServerEvent, NetworkServerSettings } from './services/network/server/network-protocol.ts'
import { OpenRequests } from './services/network/server/open-requests.ts'
import { packetDecision } from './services/network/server/packet-decision.ts'
import { PolicyEnforcer } from './services/network/server/policy-enforcer.ts'
import { PolicyTable } from './services/network/server/policy-table.ts'
import { PortRelays } from './services/network/server/port-relay.ts'
import { UpstreamServers } from './services/network/server/upstream-servers.ts'

const nobody = 65534
const keptEvents = 10_000
const pollMs = 2000
const logFd = 2
const maxLogBytes = 16 * 1024 ** 2
// A daemon that follows has what is left long before.
const drainMs = 500

const [settingsText = '', dir = ''] = process.argv.slice(2)
const settings = JSON.parse(settingsText) as NetworkServerSettings
process.umask(0o077)
writeFileSync(join(dir, 'pid'), `${process.pid}\n`)
const dirFd = openSync(dir, 'r')

const logger = pino({ level: settings.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ dest: logFd, sync: true }))
const fail = (message: string) => (error: unknown): never => {
  logger.fatal({ err: error }, message)
  process.exit(1)
}

const policies = new PolicyTable()
const events = new EventRing<NetworkServerEvent>({ capacity: keptEvents })
const recorder = new DecisionRecorder({ emit: decision => events.append(seq => ({ seq, type: 'decision', decision })) })
const openRequests = new OpenRequests({ ask: request => events.append(seq => ({ seq, type: 'open', request })) })
const policyOf = policies.bySource.bind(policies)
const record = recorder.record.bind(recorder)
const open = openRequests.open.bind(openRequests)
const { gateway4, gateway6 } = settings
const gateways = [gateway4, gateway6].filter(isOurs)
const { pool4, pool6, leasedPool4 = '' } = settings
const pools = { pool4, pool6, leasedPool4 }
const upstream = new UpstreamServers({ resolvers: settings.resolvers })
const resolver = new NameResolver({ servers: () => upstream.list(), logger })
const dns = new DnsForwarder({ policyOf, resolver, gateway4, gateway6, pools, decide: { isNameResolvable, portsToOpen, decideAddress }, record, open, logger })
const proxy = new EgressProxy({ policyOf, resolve: (name, family) => resolver.addresses(name, family), pools, originalDestination, record, logger })
const relays = new PortRelays({ publishAddress: settings.publishAddress, logger })
const ready = Promise.withResolvers<void>()
const enforcer = new PolicyEnforcer({ policies, relays, proxy, ready: ready.promise })

NflogReader.open(settings.nflogGroup, {
  onPacket: packet => {
    const decision = packetDecision(packet, policies)
    if (decision) record(decision)
  },
  onFailed: fail('the log of the packet filter cannot be read any more'),
})
const ports = settings.ports ?? { dns: 53, http: 80, tls: 443 }
const taken = `the addresses ${gateways.join(' and ')} cannot be listened at; a program that listens at every address of the host has taken a port of theirs`
await dns.listen(gateways, ports.dns).catch(fail(taken))
await proxy.listen(gateways, ports).catch(fail(taken))
const control = new NetworkControlServer({
  socketPath: join(dir, 'control.sock'),
  logger,
  target: {
    status: () => ({ pid: process.pid, version: settings.version, sandboxes: policies.size, connections: proxy.connections }),
    setPolicies: all => enforcer.setAll(all),
    setPolicy: policy => enforcer.set(policy),
    removePolicy: id => enforcer.remove(id),
    opened: answer => openRequests.answer(answer),
    events: (after, signal) => events.read(after, signal),
  },
})
await control.listen()
dropPrivileges({ uid: nobody, gid: nobody, keep: ['CAP_NET_BIND_SERVICE'] })
ready.resolve()
logger.info({ gateways, dir }, 'the network server is ready')

process.on('SIGTERM', () => {
  recorder.flush()
  events.close()
  void control.drain(drainMs).finally(() => process.exit(0))
})
setInterval(() => {
  // A sandbox that finds out how to have something logged must not fill the host's disk.
  if (fstatSync(logFd).size > maxLogBytes) ftruncateSync(logFd)
  if (fstatSync(dirFd).nlink > 0) return
  logger.warn('the directory of the network server is gone: it ends')
  process.exit(0)
}, pollMs)

/** Whether a gateway's address can be bound: a host without IPv6 has none of that family. */
function isOurs (address: string): boolean {
  return Object.values(networkInterfaces()).some(all => all?.some(own => own.address === address))
}
