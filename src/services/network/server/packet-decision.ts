import type { LoggedPacket } from '../../../host/nflog.ts'
import type { DecisionReason } from '../../../schemas/network.ts'
import type { Decision } from './network-protocol.ts'
import type { PolicyTable } from './policy-table.ts'

/** What the rules of the packet filter write before a packet that they refuse. */
const reasons: ReadonlySet<string> = new Set<DecisionReason>([
  'rule', 'no_rule', 'private_address', 'forbidden_address', 'egress_none', 'host_port', 'other_sandbox', 'spoofed_source', 'unsolicited', 'too_many_connections',
])

/** Refused by what a sandbox sends alone: from a device that is not known, they are nobody's. */
const onlyOutbound: ReadonlySet<DecisionReason> = new Set(['spoofed_source', 'other_sandbox', 'host_port'])

/** The decision that a logged packet stands for; undefined where it belongs to no sandbox that is known. Its address is that of the other end. */
export function packetDecision ({ prefix, device, packet }: LoggedPacket, policies: PolicyTable): Decision | undefined {
  if (!reasons.has(prefix)) return undefined
  const reason = prefix as DecisionReason
  // Nothing but the device says who has sent a packet: its source may be forged.
  const sender = device === undefined ? undefined : policies.byDevice(device)
  const policy = sender ?? (packet && !onlyOutbound.has(reason) ? policies.bySource(packet.destination) : undefined)
  if (!policy) return undefined
  const decision: Decision = { sandboxId: policy.sandboxId, kind: 'packet', action: 'denied', reason }
  if (!packet) return decision
  const { protocol, source, destination, destinationPort } = packet
  return { ...decision, protocol, address: sender ? destination : source, ...destinationPort !== undefined && { port: destinationPort } }
}
