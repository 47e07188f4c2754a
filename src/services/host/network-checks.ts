/** What a host needs so that sandboxes have networks; part of the table of `host-checks.ts`. */
import { toBerthError } from '../../errors.ts'
import { apt, broken, missing, ok, probeProgram, type HostCheckResult, type HostCheckRow, type HostView } from './host-probe.ts'

const configure = 'berth serve --configure-host, or for all boots: npm run setup -- --configure-host'

/** The rows about the network, in the order in which to mend them. */
export function networkChecks (host: HostView): HostCheckRow[] {
  return [
    ['ip', true, 'gives each sandbox a network of its own', apt('iproute2'), () => probeProgram(host, 'ip', { args: ['-Version'] })],
    ['veth', true, 'links a sandbox with the host', 'sudo modprobe veth', () => probeByTrying(host, () => host.tryVeth())],
    ['libnftables', true, 'the packet filter: keeps sandboxes to what they may reach', `${apt('nftables')} and sudo modprobe nf_tables`, () => probeByTrying(host, () => host.tryNftables())],
    ['nft', false, 'shows the rules of sandboxes to whoever looks for a fault', apt('nftables'), () => probeProgram(host, 'nft')],
    ['ip_forward', false, 'lets sandboxes reach what they may outside of this host', configure, () => probeForwarding(host, '/proc/sys/net/ipv4/ip_forward', 'IPv4')],
    ['ipv6_forward', false, 'lets sandboxes reach by IPv6 what they may outside of this host', configure, () => probeForwarding(host, '/proc/sys/net/ipv6/conf/all/forwarding', 'IPv6')],
    ['forward_rules', false, 'other firewalls on this host let pass what sandboxes may reach', 'see the rules: sudo nft list ruleset', () => probeForwardRules(host)],
    ['tbf', false, 'limits the bandwidth of sandboxes that have a limit', `${apt('iproute2')} and sudo modprobe sch_tbf`, () => probeByTrying(host, () => host.tryTokenBucket())],
  ]
}

async function probeByTrying (host: HostView, attempt: () => Promise<void>): Promise<HostCheckResult> {
  if (host.uid !== 0) return broken('only root can try it')
  return await attempt().then(() => ok(), (error: unknown) => broken(sentenceOf(error)))
}

/** Of errors that are not for clients too: whoever asks the doctor is on the host. */
function sentenceOf (error: unknown): string {
  const { code, message, cause } = toBerthError(error)
  return code === 'internal' && cause instanceof Error ? cause.message : message
}

async function probeForwarding (host: HostView, path: string, family: string): Promise<HostCheckResult> {
  const value = await host.read(path)
  if (value === undefined) return { ...missing(`the kernel has no ${family}`), fix: `boot with ${family}; without it sandboxes have the other alone` }
  return value.trim() === '1' ? ok() : broken(`the host does not forward ${family}: ${path.replace('/proc/sys/', '').replaceAll('/', '.')} is ${value.trim()}`)
}

async function probeForwardRules (host: HostView): Promise<HostCheckResult> {
  if (host.uid !== 0) return broken('only root can see them')
  const obstacles = await host.listForwardObstacles()
  if (obstacles.length === 0) return ok()
  const chains = obstacles.map(({ chain }) => chain).join(', ')
  return {
    ...broken(`what sandboxes send is dropped by the policy of ${chains}`),
    fix: obstacles.flatMap(({ commands }) => commands).map(command => `sudo ${command}`).join(' && '),
  }
}
