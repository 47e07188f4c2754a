import type { Bandwidth, Egress, ListeningPort, NetworkDecision, NetworkStatus, PublishedPort } from '../schemas/network.ts'
import { formatTable, shorten } from './table.ts'
import { describeBitRate, describeSize } from './units.ts'

// The longest words of each; what comes last is as long as it is.
const decisionWidths = [24, 7, 6, 5, 20]

/** What a sandbox may reach and what reaches it, a line for each; lists of any length are whole. */
export function formatNetwork (network: NetworkStatus): string {
  const { ipv4, ipv6, egress, publish, bandwidth, gateway, traffic } = network
  const lines = [
    ['addresses', [ipv4, ipv6].filter(Boolean).join(', ') || 'none while it does not run'],
    ...describeEgress(egress),
    ...publish.map(one => ['published', describePublished(one)]),
    ...bandwidth ? [['bandwidth', describeBandwidth(bandwidth)]] : [],
    ['gateway', gateway ? 'the API of this host, as gateway.internal' : 'no'],
    ...traffic ? [['traffic', `${describeSize(traffic.receivedBytes)} received, ${describeSize(traffic.sentBytes)} sent`]] : [],
  ]
  const width = Math.max(...lines.map(([name = '']) => name.length))
  return lines.map(([name = '', value = '']) => `${name.padEnd(width)}   ${shorten(value, Infinity)}\n`).join('')
}

/** `host port 8080 → 80/tcp` */
export function describePublished ({ port, hostPort, protocol }: PublishedPort): string {
  return `host port ${hostPort} → ${port}/${protocol}`
}

function describeEgress (egress: Egress): string[][] {
  if (egress === 'none') return [['egress', 'none: nothing outside can be reached']]
  if (egress === 'internet') return [['egress', 'internet: every public address']]
  return [['egress', 'what is allowed, and nothing else'], ...egress.allow.map(entry => ['allow', entry]), ...(egress.deny ?? []).map(entry => ['deny', entry])]
}

function describeBandwidth ({ uploadBitsPerSecond: up, downloadBitsPerSecond: down }: Bandwidth): string {
  return [up !== undefined && `upload ${describeBitRate(up)}`, down !== undefined && `download ${describeBitRate(down)}`].filter(Boolean).join(', ')
}

export function formatPorts (ports: ListeningPort[]): string {
  return formatTable(['PORT', 'ADDRESS', 'HOST PORT', 'REACHED AT'], ports.map(({ port, protocol, address, isLoopback, hostPort, path }) => [
    `${port}/${protocol}`,
    shorten(address, Infinity),
    hostPort === undefined || isLoopback ? '-' : String(hostPort),
    isLoopback ? 'only inside: it listens on the loopback' : path,
  ]))
}

export const decisionHeading = columns(['TIME', 'ACTION', 'KIND', 'COUNT', 'REASON', 'WHAT'])

/** One line. Names come from inside the sandbox: control characters do not reach the terminal. */
export function formatDecision (decision: NetworkDecision): string {
  const { at, action, kind, count, reason, entry } = decision
  return shorten(columns([at, action, kind, String(count), reason, `${subjectOf(decision)}${entry === undefined ? '' : `  (by ${entry})`}`]), Infinity)
}

function subjectOf ({ name, address, port, protocol }: NetworkDecision): string {
  const host = name ?? bracketed(address)
  const place = host === undefined ? undefined : `${host}${port === undefined ? '' : `:${port}`}`
  const behind = name !== undefined && address !== undefined ? `at ${bracketed(address)}` : undefined
  return [place, behind, protocol].filter(Boolean).join(' ')
}

function bracketed (address: string | undefined): string | undefined {
  return address?.includes(':') ? `[${address}]` : address
}

function columns (cells: string[]): string {
  return cells.map((cell, index) => cell.padEnd(decisionWidths[index] ?? 0)).join('  ').trimEnd()
}
