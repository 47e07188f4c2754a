import { Option, type Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Egress, NetworkRequest, PublishRequest } from '../schemas/network.ts'
import { gather } from './key-values.ts'
import { parseBitRate } from './units.ts'

/** What describes a network on the command line, as typed. */
export interface NetworkFlags {
  egress?: 'none' | 'internet'
  allow?: string[]
  deny?: string[]
  publish?: string[]
  upload?: string
  download?: string
  gateway?: boolean
}

const lastPort = 65_535

export function addNetworkOptions (command: Command): Command {
  return command
    .addOption(new Option('--egress <WHAT>', 'what it may reach: nothing, or every public address; the host\'s default when absent').choices(['none', 'internet']))
    .option('--allow <ENTRY>', 'what it may reach: api.example.com, *.example.com, git.example.com:22, 10.1.2.3:5432; may be repeated', gather)
    .option('--deny <ENTRY>', 'what it may not reach of what is allowed; may be repeated', gather)
    .option('-p, --publish <PORT>', 'make a port inside reachable at the host: 8080 (a free one there), 80:8080 (its port 80), 53/udp', gather)
    .option('--upload <RATE>', 'limit what it sends, like 10mbit')
    .option('--download <RATE>', 'limit what it receives, like 100mbit')
    .option('--gateway', 'let it reach the API of this host, as gateway.internal')
}

/** The network that the flags ask for; undefined when none of them was given. */
export function toNetworkRequest (flags: NetworkFlags): NetworkRequest | undefined {
  const egress = toEgress(flags)
  const bandwidth = {
    ...flags.upload !== undefined && { uploadBitsPerSecond: parseBitRate(flags.upload, '--upload') },
    ...flags.download !== undefined && { downloadBitsPerSecond: parseBitRate(flags.download, '--download') },
  }
  const request: NetworkRequest = {
    ...egress !== undefined && { egress },
    ...flags.publish && { publish: flags.publish.map(parsePublish) },
    ...Object.keys(bandwidth).length > 0 && { bandwidth },
    ...flags.gateway && { gateway: true },
  }
  return Object.keys(request).length > 0 ? request : undefined
}

function toEgress ({ egress, allow = [], deny = [] }: NetworkFlags): Egress | undefined {
  if (allow.length === 0 && deny.length === 0) return egress
  if (egress === 'none') throw usage(`--egress none: nothing can be reached, so ${allow.length > 0 ? '--allow' : '--deny'} makes no sense with it`)
  const allowed = egress === 'internet' && !allow.includes('internet') ? ['internet', ...allow] : allow
  if (allowed.length === 0) throw usage('--deny: takes away from what is allowed; say that too, with --allow ENTRY or --egress internet')
  return { allow: allowed, ...deny.length > 0 && { deny } }
}

/** `[HOSTPORT:]PORT[/tcp|udp]` */
function parsePublish (text: string): PublishRequest {
  const [, hostPort, port, protocol] = /^(?:(\d{1,5}):)?(\d{1,5})(?:\/(tcp|udp))?$/.exec(text) ?? []
  const ports = [hostPort, port].filter(one => one !== undefined).map(Number)
  if (port === undefined || ports.some(one => one < 1 || one > lastPort)) {
    const hint = text.split(':').length > 2 ? '; the address is a setting of the daemon, BERTH_PUBLISH_ADDRESS' : ''
    throw usage(`-p: '${text}' is not a port to publish; write it like 8080, 80:8080 (host first) or 53/udp${hint}`)
  }
  return { port: Number(port), ...hostPort !== undefined && { hostPort: Number(hostPort) }, ...protocol !== undefined && { protocol: protocol as 'tcp' | 'udp' } }
}

function usage (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
