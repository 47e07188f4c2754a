/** What the sandboxes of a host know of their network: the seam between their life cycle and how networks are made. */
import type { Bandwidth, Egress, NetworkRequest, PublishRequest } from '../../schemas/network.ts'

/** The network that a sandbox shall have. Kept in its record. */
export interface NetworkSpec {
  egress: Egress
  /** With `hostPort` once it is known; it stays the same from then on. */
  publish: Array<PublishRequest & { protocol: 'tcp' | 'udp' }>
  bandwidth?: Bandwidth
  /** Whether it may reach the host's API. */
  gateway: boolean
}

/** The network that a sandbox has while it runs. Kept in its record, so that the next daemon knows. */
export interface HeldNetwork {
  /** Number of its slot. */
  slot: number
  ipv4: string
  /** Absent where the host has no IPv6. */
  ipv6?: string
  /** What its container enters. */
  netnsPath: string
  /** The host as the sandbox sees it: router, name server, gateway.internal. */
  gateway4: string
  gateway6?: string
}

export interface NetworkManager {
  /**
   * What a request means on this host: its defaults filled in.
   *
   * @throws BerthError invalid_argument for what makes no sense.
   */
  specOf (request: NetworkRequest | undefined): NetworkSpec
  /**
   * A network of its own for a sandbox, with its rules in force. Fills `hostPort` in where the spec has none.
   * Anything that cannot be enforced throws: a sandbox is never open by accident.
   */
  setup (sandboxId: string, spec: NetworkSpec, signal: AbortSignal): Promise<HeldNetwork>
  /** Idempotent; a sandbox that has no network is fine. */
  tearDown (sandboxId: string): Promise<void>
  /** Puts other rules in force for a sandbox that has a network; what they forbid is cut at once. When it throws, the old ones are in force. */
  change (sandboxId: string, spec: NetworkSpec): Promise<void>
}

/** The network of a record that was written before sandboxes had one. */
export const closedNetwork: NetworkSpec = Object.freeze({ egress: 'none', publish: [], gateway: false })

/** Where a port of the host was left open, the one that the port inside has had so far: the same wish again changes nothing. */
export function withKnownPorts (spec: NetworkSpec, before: NetworkSpec | undefined): NetworkSpec {
  const publish = spec.publish.map(wanted => ({ ...before?.publish.find(({ port, protocol }) => port === wanted.port && protocol === wanted.protocol), ...wanted }))
  return { ...spec, publish }
}
