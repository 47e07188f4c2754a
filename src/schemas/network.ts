/** The network of a sandbox on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { Timestamp, Words } from './wire.ts'

const Port = Type.Integer({ minimum: 1, maximum: 65_535 })

const EgressEntry = Type.String({
  minLength: 1,
  maxLength: 300,
  description: 'An address or network (203.0.113.7, 10.1.0.0/16, fd12::/48), with :port where only one is meant (10.1.2.3:5432, [fd12::5]:5432); '
    + 'a domain (example.com: ports 80 and 443; example.com:22: that port), with *. for all names below it; or, to allow only, internet: every public address',
  examples: ['api.example.com', '*.example.com', 'git.example.com:22', '10.1.2.3:5432'],
})

export const EgressRules = Type.Object({
  allow: Type.Array(EgressEntry, { maxItems: 512 }),
  deny: Type.Optional(Type.Array(EgressEntry, { maxItems: 512, description: 'Refused even where `allow` has it' })),
}, { $id: 'EgressRules', additionalProperties: false })
export type EgressRules = Static<typeof EgressRules>

export const Egress = Type.Union([
  Type.Literal('none', { description: 'Nothing outside can be reached' }),
  Type.Literal('internet', { description: 'Every public address; no private network, no other sandbox, no port of the host' }),
  EgressRules,
], { description: 'What the sandbox may reach. What it names is not there: closed unless opened' })
export type Egress = Static<typeof Egress>

export const Protocol = Words(['tcp', 'udp'])

export const PublishRequest = Type.Object({
  port: { ...Port, description: 'Where a program inside listens' },
  hostPort: Type.Optional({ ...Port, description: 'The port of the host; a free one when absent' }),
  protocol: Type.Optional({ ...Protocol, default: 'tcp' }),
}, { $id: 'PublishRequest', additionalProperties: false })
export type PublishRequest = Static<typeof PublishRequest>

export const PublishedPort = Type.Object({
  port: Port,
  hostPort: Port,
  protocol: Protocol,
}, { $id: 'PublishedPort', additionalProperties: false })
export type PublishedPort = Static<typeof PublishedPort>

const BitsPerSecond = Type.Integer({ minimum: 64_000, maximum: 100_000_000_000 })

export const Bandwidth = Type.Object({
  uploadBitsPerSecond: Type.Optional({ ...BitsPerSecond, description: 'Out of the sandbox, in bits a second' }),
  downloadBitsPerSecond: Type.Optional({ ...BitsPerSecond, description: 'Into the sandbox, in bits a second' }),
}, { $id: 'Bandwidth', additionalProperties: false })
export type Bandwidth = Static<typeof Bandwidth>

/** What a client asks for; what it leaves out is the host's default, or nothing. */
export const NetworkRequest = Type.Object({
  egress: Type.Optional(Egress),
  publish: Type.Optional(Type.Array(PublishRequest, { maxItems: 64, description: 'Ports inside that the host makes reachable' })),
  bandwidth: Type.Optional(Bandwidth),
  gateway: Type.Optional(Type.Boolean({ default: false, description: 'Whether the sandbox may reach the host\'s API, as http://gateway.internal:<port of the API>; a token is needed there as everywhere' })),
}, { $id: 'NetworkRequest', additionalProperties: false })
export type NetworkRequest = Static<typeof NetworkRequest>

export const Network = Type.Object({
  ipv4: Type.Optional(Type.String({ description: 'Its address while it runs; another one after each start' })),
  ipv6: Type.Optional(Type.String()),
  egress: Egress,
  publish: Type.Array(PublishedPort),
  bandwidth: Type.Optional(Bandwidth),
  gateway: Type.Boolean(),
}, { $id: 'Network', additionalProperties: false })
export type Network = Static<typeof Network>

export const DecisionReason = Words([
  'rule', 'no_rule', 'private_address', 'forbidden_address', 'no_name', 'egress_none', 'host_port', 'other_sandbox', 'spoofed_source',
  'unsolicited', 'too_many_connections', 'unresolvable', 'suppressed',
], { description: 'rule: an entry of allow or deny decided; no_rule: nothing allows it; forbidden_address: loopback, link-local, metadata, multicast and the like; suppressed: more of the same than is recorded one by one' })
export type DecisionReason = Static<typeof DecisionReason>

/** One decision about the network of a sandbox, or several alike within a second. */
export const NetworkDecision = Type.Object({
  seq: Type.Integer({ description: 'Grows with each decision of this host; read on with ?cursor=<seq>' }),
  at: Timestamp,
  sandboxId: Type.String(),
  kind: Words(['dns', 'http', 'tls', 'packet'], { description: 'Who decided: the name server (a question), the proxy (an HTTP request, a TLS connection), or the packet filter' }),
  action: Words(['allowed', 'denied']),
  reason: DecisionReason,
  count: Type.Integer({ description: 'How many alike, within a second' }),
  name: Type.Optional(Type.String({ description: 'The domain asked for' })),
  entry: Type.Optional(Type.String({ description: 'The entry of allow or deny that decided' })),
  protocol: Type.Optional(Type.String({ description: 'tcp, udp, icmp, or the number of another' })),
  address: Type.Optional(Type.String({ description: 'The address it was for' })),
  port: Type.Optional(Type.Integer()),
}, { $id: 'NetworkDecision', additionalProperties: false })
export type NetworkDecision = Static<typeof NetworkDecision>
