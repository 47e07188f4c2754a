/** Whether this host passes on packets between its links, and making it so. The settings are the host's: nothing here changes them unasked. */
import { listRoutes, type HostRoute } from '../../host/ip-query.ts'
import { readSysctl, writeSysctl } from '../../host/sysctl.ts'

export interface Forwarding {
  ipv4: boolean
  /** False too where there is no IPv6. */
  ipv6: boolean
}

/** What forwarding depends on of a host. */
export interface ForwardingHost {
  /** By its path below /proc/sys; undefined when the kernel has no such setting. */
  readSysctl: (path: string) => Promise<string | undefined>
  writeSysctl: (path: string, value: string) => Promise<void>
  listRoutes: (family: 6) => Promise<ReadonlyArray<Pick<HostRoute, 'destination' | 'device' | 'protocol'>>>
}

const thisHost: ForwardingHost = { readSysctl, writeSysctl, listRoutes }

const ipv4Path = 'net/ipv4/ip_forward'
const ipv6Path = 'net/ipv6/conf/all/forwarding'

/** What is so at the moment. */
export async function readForwarding (host: ForwardingHost = thisHost): Promise<Forwarding> {
  const [ipv4, ipv6] = await Promise.all([host.readSysctl(ipv4Path), host.readSysctl(ipv6Path)])
  return { ipv4: ipv4 === '1', ipv6: ipv6 === '1' }
}

/**
 * Has the host forward IPv4 and, where it has IPv6, that too. Answers what it changed, as `net.ipv4.ip_forward=1`; nothing when all
 * was so. It lasts until the next boot.
 *
 * @throws Error when a setting cannot be changed, as in a container whose /proc/sys is read-only.
 */
export async function configureForwarding (host: ForwardingHost = thisHost): Promise<string[]> {
  const [ipv4, ipv6] = await Promise.all([host.readSysctl(ipv4Path), host.readSysctl(ipv6Path)])
  const changes: Array<[path: string, value: string]> = []
  if (ipv4 !== '1') changes.push([ipv4Path, '1'])
  if (ipv6 !== undefined && ipv6 !== '1') {
    // Before: a host that forwards drops what routers announced to it, its own default route with it, unless told to listen all the same.
    for (const device of await listRouterListeners(host)) changes.push([`net/ipv6/conf/${device}/accept_ra`, '2'])
    changes.push([ipv6Path, '1'])
  }
  for (const [path, value] of changes) await host.writeSysctl(path, value)
  return changes.map(([path, value]) => `${nameOf(path)}=${value}`)
}

/** As sysctl(8) writes it: a dot in the name of a device becomes the slash that it takes for it. */
function nameOf (path: string): string {
  return path.replace(/[./]/g, character => character === '/' ? '.' : '/')
}

/**
 * Devices by which the kernel itself has learnt a default route from a router (accept_ra = 1: listens unless it forwards). Where a
 * program listens in its place the setting is 0, and it goes on.
 */
async function listRouterListeners (host: ForwardingHost): Promise<string[]> {
  const learnt = (await host.listRoutes(6)).flatMap(({ destination, device, protocol }) => destination === 'default' && protocol === 'ra' && device !== undefined ? [device] : [])
  const devices = [...new Set(learnt)]
  const settings = await Promise.all(devices.map(device => host.readSysctl(`net/ipv6/conf/${device}/accept_ra`)))
  return devices.filter((_, i) => settings[i] === '1')
}
