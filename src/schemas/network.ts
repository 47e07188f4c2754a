/** The network of a sandbox on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { Page, Timestamp, Words } from './wire.ts'

const Port = Type.Integer({ minimum: 1, maximum: 65_535 })

const EgressEntry = Type.String({
  minLength: 1,
  maxLength: 300,
  description: 'An address or network (203.0.113.7, 10.1.0.0/16, fd12::/48), with :port where only one is meant (10.1.2.3:5432, [fd12::5]:5432); ' +
    'a domain (example.com: ports 80 and 443; example.com:22: that port), with *. for all names below it; or, to allow only, internet: every public address',
  examples: ['api.example.com', '*.example.com', 'git.example.com:22', '10.1.2.3:5432'],
})

export const EgressRules = Type.Object({
  allow: Type.Array(EgressEntry, { maxItems: 512 }),
  deny: Type.Optional(Type.Array(EgressEntry, { maxItems: 512, description: 'Refused even where `allow` has it' })),
}, { $id: 'EgressRules', additionalProperties: false })
export type EgressRules = Static<typeof EgressRules>

export const Egress = Type.Union([
  Words(['none', 'internet'], { description: 'none: nothing outside; internet: every public address, but no private network, no other sandbox, no port of the host' }),
  EgressRules,
], { description: 'What the sandbox may reach: what is not named here is closed' })
export type Egress = Static<typeof Egress>

const Protocol = Words(['tcp', 'udp'])

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

/** What a client asks for, whole: what it leaves out is the host's default, or nothing. */
export const NetworkRequest = Type.Object({
  egress: Type.Optional({ ...Egress, description: 'What the sandbox may reach: what is not named here is closed. Left out: the host\'s default (BERTH_NETWORK_EGRESS), which is none unless the host is configured otherwise' }),
  publish: Type.Optional(Type.Array(PublishRequest, { maxItems: 64, description: 'Ports inside that the host makes reachable' })),
  bandwidth: Type.Optional(Bandwidth),
  gateway: Type.Optional(Type.Boolean({ default: false, description: 'Whether the sandbox may reach the host\'s API, as http://gateway.internal:<port of the API>; a token is needed there as everywhere' })),
}, { $id: 'NetworkRequest', additionalProperties: false })
export type NetworkRequest = Static<typeof NetworkRequest>

const networkProperties = {
  ipv4: Type.Optional(Type.String({ description: 'Its address while it runs; another one after each start', examples: ['10.200.16.7'] })),
  ipv6: Type.Optional(Type.String({ examples: ['fd00:a1b2::1007'] })),
  egress: Egress,
  publish: Type.Array(PublishedPort),
  bandwidth: Type.Optional(Bandwidth),
  gateway: Type.Boolean({ description: 'Whether it may reach the host\'s API as gateway.internal' }),
}

export const Network = Type.Object(networkProperties, { $id: 'Network', additionalProperties: false })
export type Network = Static<typeof Network>

export const Traffic = Type.Object({
  receivedBytes: Type.Integer({ description: 'Into the sandbox since its start, in bytes, headers included' }),
  sentBytes: Type.Integer({ description: 'Out of the sandbox since its start, in bytes, headers included' }),
}, { $id: 'Traffic', additionalProperties: false })
export type Traffic = Static<typeof Traffic>

/** The network, and what has passed through it. */
export const NetworkStatus = Type.Object({
  ...networkProperties,
  traffic: Type.Optional(Traffic),
}, { $id: 'NetworkStatus', additionalProperties: false })
export type NetworkStatus = Static<typeof NetworkStatus>

/** A port that a program inside listens on. */
export const ListeningPort = Type.Object({
  port: Port,
  protocol: Words(['tcp']),
  address: Type.String({ description: 'Where it listens, as the sandbox says; 0.0.0.0 and ::: on every address', examples: ['0.0.0.0'] }),
  isLoopback: Type.Boolean({ description: 'It listens on 127.0.0.0/8 or ::1 alone: only the sandbox itself can reach it, neither `path` nor `hostPort` does' }),
  hostPort: Type.Optional({ ...Port, description: 'The port of the host that leads to it' }),
  path: Type.String({ description: 'Where this API leads to it, when it speaks HTTP', examples: ['/v1/sandboxes/sbx_4k2m9xq7tz1c8vw3h5np/ports/8080/'] }),
}, { $id: 'ListeningPort', additionalProperties: false })
export type ListeningPort = Static<typeof ListeningPort>

export const ListeningPorts = Type.Object({
  items: Type.Array(ListeningPort),
}, { $id: 'ListeningPorts', additionalProperties: false })
export type ListeningPorts = Static<typeof ListeningPorts>

export const DecisionReason = Words([
  'rule', 'no_rule', 'private_address', 'forbidden_address', 'no_name', 'egress_none', 'host_port', 'other_sandbox', 'spoofed_source',
  'unsolicited', 'too_many_connections', 'unresolvable', 'suppressed',
], { description: 'rule: an entry of allow or deny decided; no_rule: nothing allows it; forbidden_address: loopback, link-local, metadata, multicast and the like; suppressed: more of the same than is recorded one by one' })
export type DecisionReason = Static<typeof DecisionReason>

export const DecisionKind = Words(['dns', 'http', 'tls', 'packet'], {
  description: 'Who decided: the name server (a question), the proxy (an HTTP request, a TLS connection), or the packet filter',
})
export type DecisionKind = Static<typeof DecisionKind>

export const DecisionAction = Words(['allowed', 'denied'])
export type DecisionAction = Static<typeof DecisionAction>

/** One decision about the network of a sandbox, or several alike within a second. */
export const NetworkDecision = Type.Object({
  seq: Type.Integer({ description: 'Grows with each decision of this host; read on with ?cursor=<seq>' }),
  at: Timestamp,
  sandboxId: Type.String(),
  kind: DecisionKind,
  action: DecisionAction,
  reason: DecisionReason,
  count: Type.Integer({ description: 'How many alike, within a second' }),
  name: Type.Optional(Type.String({ description: 'The domain asked for' })),
  entry: Type.Optional(Type.String({ description: 'The entry of allow or deny that decided' })),
  protocol: Type.Optional(Type.String({ description: 'tcp, udp, icmp, or the number of another' })),
  address: Type.Optional(Type.String({ description: 'The address it was for' })),
  port: Type.Optional(Type.Integer()),
}, { $id: 'NetworkDecision', additionalProperties: false })
export type NetworkDecision = Static<typeof NetworkDecision>

/** Stands where decisions were that are not kept any more. */
export const DecisionGap = Type.Object({
  type: Words(['gap']),
  seq: Type.Integer({ description: 'Decisions up to this one are gone' }),
  message: Type.String(),
}, { $id: 'DecisionGap', additionalProperties: false })
export type DecisionGap = Static<typeof DecisionGap>

export const DecisionPage = Type.Object({
  ...Page(NetworkDecision, 'DecisionPage').properties,
  gap: Type.Optional(DecisionGap),
}, { $id: 'DecisionPage', additionalProperties: false })
export type DecisionPage = Static<typeof DecisionPage>
