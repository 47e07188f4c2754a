import type { ServerPolicy } from '../../src/services/network/server/network-protocol.ts'

/** Of a sandbox that reaches nothing, in a slot with one digit; its port 7777 is published at each of these ports of the host. */
export function serverPolicy (sandboxId: string, slot: number, hostPorts: number[] = []): ServerPolicy {
  const none = { addresses: [], domains: [] }
  return {
    sandboxId,
    device: `bvaaaaaa000${slot}`,
    ipv4: `10.200.0.${slot}`,
    ipv6: `fd00:a1b2::${slot}`,
    egress: { mode: 'none', hasInternet: false, allow: none, deny: none, isProxied: false },
    hasGateway: false,
    publish: hostPorts.map(hostPort => ({ port: 7777, hostPort, protocol: 'tcp' })),
  }
}
