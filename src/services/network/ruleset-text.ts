/**
 * The packet filter's table without what belongs to single sandboxes: nftables' own language, see nft(8).
 *
 *     sandbox ─▶ source (prerouting, raw)    is it the sandbox's own address?
 *             ─▶ to_gateway (prerouting, nat) DNS, and the proxy's ports, go to the gateway
 *             ├▶ input                       the gateway's services, answers to the host, nothing else
 *             └▶ forward_out ─▶ leaving ─▶ egress map ─▶ out_… ─▶ admit
 *     outside ─▶ forward_in  ─▶ coming  ─▶ replies map ─▶ back_…      answers to what it began
 *                                       ─▶ coming_published           what began outside
 *
 * Every chain at a hook begins by letting go what is not of our link group, so no packet of others meets another rule.
 * Each packet in either direction is checked, not only the first of a flow: a policy that changes cuts what runs.
 * All that is particular to a sandbox is an element of a set, which costs the same however many there are.
 */
import { createHash } from 'node:crypto'
import type { DecisionReason } from '../../schemas/network.ts'
import { forbiddenRanges, privateRanges } from './address-classes.ts'
import { servicePorts, type NetworkPlan } from './network-plan.ts'

export interface DenyReason {
  reason: DecisionReason
  /** The table's counter of packets refused for it. */
  counter: string
  /** How its records in the log begin: NFLOG's prefix. */
  prefix: string
}

/** Why the packet filter refuses. */
export const denyReasons: readonly DenyReason[] = ([
  'spoofed_source', 'host_port', 'other_sandbox', 'forbidden_address', 'private_address', 'no_rule', 'rule', 'egress_none', 'unsolicited', 'too_many_connections',
] as const).map(reason => ({ reason, counter: `denied_${reason}`, prefix: reason }))

/** What was refused, by reason; what is absent is 0. */
export type Counters = Readonly<Partial<Record<DecisionReason, { packets: number, bytes: number }>>>

/** Refusals of one sandbox that are logged: what floods is counted, and hides nobody else's. */
const loggedPerSecond = 50
const loggedBurst = 200
/** As much of a packet as names its addresses and ports. */
const loggedBytes = 128
/** Refusals of one sandbox that are answered with a reset or an ICMP error; more are dropped. */
const answeredPerSecond = 500
/** Connections that a sandbox may have at the same time: to outside, and to the gateway, where each DNS question counts for half a minute. */
const maximumConnections = 1024
const maximumGatewayConnections = 2048
const newPerSecond = 200
const newBurst = 500
const pingsPerSecond = 50
/**
 * How long flows to an address that a name stood for go on after the last of them began. Packets of a flow do not prolong it: one that
 * is under way while the address is closed would open it again.
 */
const heldTime = '48h'
/** The link groups of all daemons begin with this byte: network-plan.ts. */
const anyDaemonsGroup = 'and 0xff000000 == 0x42000000'

const families = [
  { digit: '4', ip: 'ip', nfproto: 'ipv4', type: 'ipv4_addr', loopback: '127.0.0.0/8' },
  { digit: '6', ip: 'ip6', nfproto: 'ipv6', type: 'ipv6_addr', loopback: '::1' },
] as const
type FamilyWords = typeof families[number]

const perFamily = (lines: (words: FamilyWords) => string[]): string[] => families.flatMap(lines)
const chain = (name: string, lines: string[]): string[] => [`chain ${name} {`, ...lines, '}']
const tcpOrUdp = 'meta l4proto { tcp, udp }'
const icmpErrors = ['icmp type { destination-unreachable, time-exceeded, parameter-problem }', 'icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }']

/** What a table depends on beside its plan. */
export interface TableFacts {
  /** Of the host's API on the gateway. */
  apiPort?: number
  counters?: Counters
  /** Whether the host passes packets of a family on; both when absent. */
  isForwarded?: { ipv4: boolean, ipv6: boolean }
  /** The kernel has a table of this structure: what is in it is replaced, and the table stays. */
  isInPlace?: boolean
}

const everyFamily = { ipv4: true, ipv6: true }

/** One transaction that puts the table in the place of what is there, with no sandbox in it. */
export function tableText (plan: NetworkPlan, facts: TableFacts): string {
  return [
    ...facts.isInPlace ? emptying(plan) : [`add table inet ${plan.table}`, `delete table inet ${plan.table}`],
    `table inet ${plan.table} {`,
    `chain ${structureMark(plan)} { }`,
    ...contentText(plan, facts),
    '}',
    '',
  ].join('\n')
}

/** An empty chain by whose name a table is known that has the same sets and chains, whatever is in them. */
export function structureMark (plan: NetworkPlan): string {
  return `structure_${createHash('sha256').update(contentText(plan, { isForwarded: { ipv4: false, ipv6: false } }).join('\n')).digest('hex').slice(0, 12)}`
}

/**
 * Takes everything out of a table of the same structure, for the same transaction to put it in anew. A table that is deleted and made again
 * refuses, at that moment, packets that are half-way through its old rules: their sets are empty by then, and connections get a reset.
 * What the kernel counts by sandbox stays.
 */
function emptying (plan: NetworkPlan): string[] {
  const kept = /_budget|connections/
  const names = setsText(plan).flatMap(line => /^(set|map) (\S+)/.exec(line)?.slice(1, 3).join(` inet ${plan.table} `) ?? [])
  return [`flush table inet ${plan.table}`, ...names.filter(name => !kept.test(name)).map(name => `flush ${name}`)]
}

function contentText (plan: NetworkPlan, { apiPort, counters = {}, isForwarded = everyFamily }: TableFacts): string[] {
  return [
    ...setsText(plan),
    ...denyReasons.map(({ reason, counter }) => `counter ${counter} { packets ${counters[reason]?.packets ?? 0} bytes ${counters[reason]?.bytes ?? 0} }`),
    ...refusals(plan),
    ...admissions(),
    ...policies(),
    ...forwarding(plan),
    ...hostChains(plan, apiPort),
    ...unforwarded(plan, isForwarded),
    ...translations(plan),
  ]
}

function setsText (plan: NetworkPlan): string[] {
  const dynamic = (name: string, isTimed: boolean): string => `set ${name} { type ifname; size 65535; flags dynamic${isTimed ? ',timeout; timeout 1m' : ''}; }`
  const ranges = (digit: string, list: readonly { cidr: string }[]): string => list.map(({ cidr }) => cidr).filter(cidr => cidr.includes(':') === (digit === '6')).join(', ')
  return [
    'map egress { type ifname : verdict; }',
    'map replies { type ifname : verdict; }',
    'set proxied { type ifname; }',
    'set gateway_users { type ifname; }',
    dynamic('log_budget', true), dynamic('answer_budget', true), dynamic('new_budget', true), dynamic('ping_budget', true),
    dynamic('connections', false), dynamic('gateway_connections', false),
    ...perFamily(({ digit, type }) => [
      `set forbidden${digit} { type ${type}; flags interval; auto-merge; elements = { ${ranges(digit, forbiddenRanges(plan))} } }`,
      `set private${digit} { type ${type}; flags interval; auto-merge; elements = { ${ranges(digit, privateRanges)} } }`,
      `set source${digit} { type ifname . ${type}; }`,
      ...['allow', 'deny'].flatMap(list => [
        `set ${list}${digit} { type ${type} . ${type}; flags interval; }`,
        `set ${list}_port${digit} { type ${type} . ${type} . inet_service; flags interval; }`,
        // Single addresses apart: the kernel takes an element from a set of intervals in time that grows with the set.
        `set ${list}_host${digit} { type ${type} . ${type}; }`,
        `set ${list}_host_port${digit} { type ${type} . ${type} . inet_service; }`,
      ]),
      // opened: new flows, for as long as the name's answer lives; held: flows that began by one.
      `set opened${digit} { type ${type} . ${type} . inet_service; size 65536; flags timeout; }`,
      `set held${digit} { type ${type} . ${type} . inet_service; size 65536; flags dynamic,timeout; timeout ${heldTime}; }`,
      `set published${digit} { type ${type} . inet_proto . inet_service; }`,
      `map host_ports${digit} { type inet_proto . inet_service : ${type} . inet_service; }`,
    ]),
  ]
}

/** For each reason: note_… counts and logs, drop_… leaves it at that, refuse_… also answers. */
function refusals ({ group, nflogGroup }: NetworkPlan): string[] {
  const log = ({ prefix }: DenyReason, name: string): string =>
    `update @log_budget { ${name} limit rate ${loggedPerSecond}/second burst ${loggedBurst} packets } log prefix "${prefix}" group ${nflogGroup} snaplen ${loggedBytes}`
  const tooMany = (name: string): string => `update @answer_budget { ${name} limit rate over ${answeredPerSecond}/second burst ${answeredPerSecond} packets } drop`
  return [
    ...chain('answer', [
      `iifgroup ${group} ${tooMany('iifname')}`,
      `iifgroup != ${group} ${tooMany('oifname')}`,
      'meta l4proto tcp reject with tcp reset',
      'reject with icmpx admin-prohibited',
    ]),
    ...denyReasons.flatMap(reason => [
      ...chain(`note_${reason.reason}`, [
        `counter name ${reason.counter}`,
        `iifgroup ${group} ${log(reason, 'iifname')}`,
        `iifgroup != ${group} ${log(reason, 'oifname')}`,
      ]),
      ...chain(`drop_${reason.reason}`, [`jump note_${reason.reason}`, 'drop']),
      ...chain(`refuse_${reason.reason}`, [`jump note_${reason.reason}`, 'goto answer']),
    ]),
  ]
}

/** What the policy lets through, within the limits; a flow that the kernel has confirmed passed them before. */
function admissions (): string[] {
  const limits = (connections: string, maximum: number): string[] => [
    'ct status & confirmed == confirmed accept',
    // Without an answer: an honest program's next try comes when there is room.
    `update @new_budget { iifname limit rate over ${newPerSecond}/second burst ${newBurst} packets } goto drop_too_many_connections`,
    `add @${connections} { iifname ct count over ${maximum} } goto refuse_too_many_connections`,
    'accept',
  ]
  return [
    ...chain('admit', limits('connections', maximumConnections)),
    ...chain('admit_to_gateway', limits('gateway_connections', maximumGatewayConnections)),
  ]
}

/** The chains that the maps egress and replies lead to: the same decisions for what leaves and for the answers, with the sides exchanged. */
function policies (): string[] {
  return [
    { way: 'out', own: 'saddr', other: 'daddr', port: 'dport', device: 'iifname', pass: 'goto admit', refuse: 'refuse' },
    // Answers are dropped: a reset to the far side would end the kernel's entry of the flow, and with it the reset that the sandbox gets for what it sends next.
    { way: 'back', own: 'daddr', other: 'saddr', port: 'sport', device: 'oifname', pass: 'accept', refuse: 'drop' },
  ].flatMap(({ way, own, other, port, device, pass, refuse }) => {
    const refusePrivate = perFamily(({ digit, ip }) => [`${ip} ${other} @private${digit} goto ${refuse}_private_address`])
    return [
      ...perFamily(({ digit, ip }) => {
        const pair = `${ip} ${own} . ${ip} ${other}`
        const triple = `${pair} . th ${port}`
        return chain(`${way}_lists${digit}`, [
          ...[['deny', `goto ${refuse}_rule`], ['allow', pass]].flatMap(([list, verdict]) => [
            `${pair} @${list}_host${digit} ${verdict}`,
            `${pair} @${list}${digit} ${verdict}`,
            `${tcpOrUdp} ${triple} @${list}_host_port${digit} ${verdict}`,
            `${tcpOrUdp} ${triple} @${list}_port${digit} ${verdict}`,
          ]),
          ...way === 'out' ? [`${tcpOrUdp} ct state new ${triple} @opened${digit} update @held${digit} { ${triple} } ${pass}`] : [],
          `${tcpOrUdp} ct state established ${triple} @held${digit} ${pass}`,
        ])
      }),
      ...chain(`${way}_internet`, [...refusePrivate, pass]),
      ...chain(`${way}_rules`, [
        `meta nfproto vmap { ${families.map(({ digit, nfproto }) => `${nfproto} : jump ${way}_lists${digit}`).join(', ')} }`,
        ...refusePrivate,
        `goto ${refuse}_no_rule`,
      ]),
      ...chain(`${way}_rules_and_internet`, [
        `meta nfproto vmap { ${families.map(({ digit, nfproto }) => `${nfproto} : jump ${way}_lists${digit}`).join(', ')} }`,
        // What is to go through the proxy does so by redirection: here come QUIC, which would hide the name, and flows from before.
        `${device} @proxied ${tcpOrUdp} th ${port} { 80, 443 } goto ${refuse}_no_rule`,
        `goto ${way}_internet`,
      ]),
    ]
  })
}

function forwarding ({ group }: NetworkPlan): string[] {
  const published = (side: 'saddr' | 'daddr', port: 'sport' | 'dport', pass: string): string[] =>
    perFamily(({ digit, ip }) => [`ct status dnat ${ip} ${side} . meta l4proto . th ${port} @published${digit} ${pass}`])
  return [
    ...chain('leaving', [
      'ct state invalid,untracked drop',
      'ct direction reply goto leaving_published',
      // An ICMP error about a flow that the sandbox began tells nobody anything that matters, and could tell much.
      'ct state related drop',
      ...perFamily(({ digit, ip }) => [`${ip} daddr @forbidden${digit} goto refuse_forbidden_address`]),
      'iifname vmap @egress',
      'goto refuse_egress_none',
    ]),
    ...chain('leaving_published', ['ct state related drop', ...published('saddr', 'sport', 'accept'), 'goto refuse_unsolicited']),
    ...chain('coming', [
      'ct state invalid,untracked drop',
      // Among them "packet too big", without which large answers vanish.
      ...icmpErrors.map(errors => `ct state related ${errors} accept`),
      'ct state related drop',
      'ct direction original goto coming_published',
      ...perFamily(({ digit, ip }) => [`${ip} saddr @forbidden${digit} goto drop_forbidden_address`]),
      'oifname vmap @replies',
      'goto drop_egress_none',
    ]),
    ...chain('coming_published', [
      ...perFamily(({ digit, ip }) => [`${ip} saddr @forbidden${digit} goto drop_unsolicited`]),
      ...published('daddr', 'dport', 'accept'),
      'ct state established goto refuse_unsolicited',
      // Who looks for open ports learns nothing.
      'goto drop_unsolicited',
    ]),
    // Where another daemon's sandbox is meant, the sender's rules come before those of the receiver, and say why.
    ...chain('forward_out', [
      'type filter hook forward priority filter - 11; policy accept;',
      `iifgroup != ${group} accept`,
      `oifgroup ${group} goto refuse_other_sandbox`,
      'goto leaving',
    ]),
    ...chain('forward_in', [
      'type filter hook forward priority filter - 10; policy accept;',
      `oifgroup != ${group} accept`,
      'goto coming',
    ]),
  ]
}

/** What meets the host itself. */
function hostChains (plan: NetworkPlan, apiPort: number | undefined): string[] {
  const { group } = plan
  const gateway = ({ digit, ip }: FamilyWords): string => `${ip} daddr ${digit === '4' ? plan.gateway4 : plan.gateway6}`
  return [
    ...chain('source', [
      'type filter hook prerouting priority raw; policy accept;',
      `iifgroup != ${group} accept`,
      ...perFamily(({ digit, ip }) => [`iifname . ${ip} saddr @source${digit} accept`]),
      // Noise of network stacks that look for routers and neighbours; both are fixed.
      'ip6 saddr { ::, fe80::/10 } drop',
      'goto drop_spoofed_source',
    ]),
    ...chain('input', [
      'type filter hook input priority filter - 10; policy accept;',
      `iifgroup != ${group} accept`,
      'ct state invalid,untracked drop',
      'ct direction reply goto answering_host',
      ...perFamily(words => [
        `${gateway(words)} ${tcpOrUdp} th dport ${servicePorts.dns} goto admit_to_gateway`,
        `${gateway(words)} tcp dport { ${servicePorts.http}, ${servicePorts.tls} } iifname @proxied goto admit_to_gateway`,
        // The proxy itself ends connections that a changed policy forbids; a policy that needs no proxy ends none.
        `${gateway(words)} tcp dport { ${servicePorts.http}, ${servicePorts.tls} } ct state established ct status dnat accept`,
        ...apiPort === undefined ? [] : [`${gateway(words)} tcp dport ${apiPort} iifname @gateway_users goto admit_to_gateway`],
        `${gateway(words)} ${words.digit === '4' ? 'icmp' : 'icmpv6'} type echo-request update @ping_budget { iifname limit rate ${pingsPerSecond}/second } accept`,
      ]),
      'goto refuse_host_port',
    ]),
    // Connections that the host began, to a sandbox's address or to a published port of its own.
    ...chain('answering_host', [
      'ct status & dnat != dnat accept',
      'ct state related accept',
      ...perFamily(({ digit, ip }) => [`${ip} saddr . meta l4proto . th sport @published${digit} accept`]),
      'goto refuse_unsolicited',
    ]),
    ...chain('arriving', [
      'type filter hook postrouting priority filter - 10; policy accept;',
      `oifgroup != ${group} accept`,
      'ct status & dnat == dnat ct direction original goto arriving_published',
    ]),
    ...chain('arriving_published', [
      'ct state related accept',
      ...perFamily(({ digit, ip }) => [`${ip} daddr . meta l4proto . th dport @published${digit} accept`]),
      'goto drop_unsolicited',
    ]),
  ]
}

/**
 * A host that does not forward drops what it would have to pass on without a word. Here such packets meet the rules all the same, so that
 * programs are refused at once and refusals are known.
 */
function unforwarded ({ group, block4, block6 }: NetworkPlan, isForwarded: { ipv4: boolean, ipv6: boolean }): string[] {
  const silent = families.filter(({ nfproto }) => !isForwarded[nfproto])
  if (silent.length === 0) return []
  return chain('unforwarded', [
    'type filter hook prerouting priority mangle; policy accept;',
    `iifgroup != ${group} accept`,
    ...families.filter(words => !silent.includes(words)).map(({ nfproto }) => `meta nfproto ${nfproto} accept`),
    'ct direction reply accept',
    'fib daddr type local accept',
    `${tcpOrUdp} th dport 53 accept`,
    ...silent.flatMap(({ digit, ip }) => [
      `${ip} daddr ${digit === '4' ? block4 : block6} goto refuse_other_sandbox`,
      `${ip} daddr @forbidden${digit} goto refuse_forbidden_address`,
    ]),
    'iifname @proxied tcp dport { 80, 443 } accept',
    'goto leaving',
  ])
}

function translations (plan: NetworkPlan): string[] {
  const { group } = plan
  const own = ({ digit }: FamilyWords) => digit === '4' ? { gateway: plan.gateway4, pool: plan.pool4, block: plan.block4 } : { gateway: plan.gateway6, pool: plan.pool6, block: plan.block6 }
  const toPublished = perFamily(words => [
    `${words.ip} daddr != { ${words.loopback}, ${own(words).pool} } fib daddr type local dnat ${words.ip} to meta l4proto . th dport map @host_ports${words.digit}`,
  ])
  return [
    ...chain('to_gateway', perFamily(words => {
      const { gateway } = own(words)
      const toGateway = (port: number): string => `dnat ${words.ip} to ${words.digit === '4' ? gateway : `[${gateway}]`}:${port}`
      return [
        `meta nfproto ${words.nfproto} ${tcpOrUdp} th dport 53 ${toGateway(servicePorts.dns)}`,
        `${words.ip} daddr @forbidden${words.digit} return`,
        // A port of the host is refused as such.
        `${words.ip} daddr != ${own(words).pool} fib daddr type local return`,
        `meta nfproto ${words.nfproto} iifname @proxied tcp dport 80 ${toGateway(servicePorts.http)}`,
        `meta nfproto ${words.nfproto} iifname @proxied tcp dport 443 ${toGateway(servicePorts.tls)}`,
      ]
    })),
    ...chain('translate_in', [
      'type nat hook prerouting priority dstnat; policy accept;',
      `iifgroup ${group} goto to_gateway`,
      // Published ports are for others than sandboxes, also those of another daemon.
      `iifgroup ${anyDaemonsGroup} accept`,
      ...toPublished,
    ]),
    ...chain('translate_own', [
      'type nat hook output priority -100; policy accept;',
      'oifname != "lo" accept',
      ...toPublished,
    ]),
    ...chain('translate_out', [
      'type nat hook postrouting priority srcnat; policy accept;',
      ...perFamily(words => [`${words.ip} saddr ${own(words).block} ${words.ip} saddr != ${own(words).gateway} oifgroup != ${group} masquerade`]),
      // Other hosts have addresses of that network too, and other daemons of this host.
      ...plan.leasedPool4 === undefined ? [] : [`ip saddr ${plan.leasedPool4} iifgroup ${group} oifgroup != ${group} masquerade`],
    ]),
  ]
}
