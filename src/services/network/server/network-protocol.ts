/**
 * What daemon and network server say to each other: HTTP over a unix socket that only root can reach, JSON bodies, and JSON lines where
 * an answer comes in parts.
 *
 *     GET    /status                             → NetworkServerStatus
 *     PUT    /policies            ServerPolicy[] → PolicyFailure[]   all of them: what is not among them is forgotten
 *     PUT    /policies/<id>       ServerPolicy   → {}   in force, and connections that it forbids are cut
 *     DELETE /policies/<id>                      → {}
 *     POST   /opened              OpenAnswer     → {}
 *     GET    /events              ?after=<seq>   → lines of NetworkServerEvent, without end
 */
import type { ErrorFacts } from '../../../lib/error-facts.ts'
import type { NetworkDecision } from '../../../schemas/network.ts'
import type { EgressPolicy } from '../egress-policy.ts'

/** Where a published port is held, and what it leads to. */
export interface ServerPublishedPort {
  port: number
  hostPort: number
  protocol: 'tcp' | 'udp'
}

/** What the server knows of one sandbox. */
export interface ServerPolicy {
  sandboxId: string
  /** The host's end of its veth: packets that the filter logs name it. */
  device: string
  ipv4: string
  ipv6: string
  egress: EgressPolicy
  /** Whether gateway.internal has an address. */
  hasGateway: boolean
  publish: ServerPublishedPort[]
}

/** One of all policies that is in force but for its published ports: one of them is taken. */
export interface PolicyFailure extends ErrorFacts {
  sandboxId: string
}

/** What a server works by; given once, at its start. */
export interface NetworkServerSettings {
  /** Of this Berth: a daemon of another version replaces the server. */
  version: string
  gateway4: string
  gateway6: string
  /**
   * Where at the gateways the packet filter has questions, HTTP and TLS come; 53, 80 and 443 when absent. Whoever listens there at every
   * address of the host leaves the gateways' own ports to nobody.
   */
  ports?: { dns: number, http: number, tls: number }
  /** Addresses that no sandbox may reach, as networks: the pools of sandboxes themselves. */
  pool4: string
  pool6: string
  leasedPool4?: string
  nflogGroup: number
  /** Name servers that are asked, `address` or `address:port`, `[v6]:port`; empty: those of the host's /etc/resolv.conf. */
  resolvers: readonly string[]
  /** Address of the host where published ports are held; `0.0.0.0`: every one, of both families. */
  publishAddress: string
  logLevel: string
}

/** A decision before the host has numbered it. */
export type Decision = Omit<NetworkDecision, 'seq' | 'at' | 'count'>

/** Asks the daemon to let a sandbox reach addresses that a name it may reach stands for; the name is answered when that is done. */
export interface OpenRequest {
  requestId: number
  sandboxId: string
  addresses: string[]
  port: number
  /** For how long, from now, in milliseconds; use of them prolongs it. */
  ttlMs: number
}

export interface OpenAnswer {
  requestId: number
  isOpen: boolean
}

export type NetworkServerEvent = { seq: number } & (
  | { type: 'decision', decision: Omit<NetworkDecision, 'seq'> }
  | { type: 'open', request: OpenRequest }
)

export interface NetworkServerStatus {
  pid: number
  version: string
  sandboxes: number
  connections: number
}
