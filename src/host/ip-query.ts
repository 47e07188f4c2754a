/** What this host's network looks like: its addresses, its routes, the way out. */
import { readIpJson } from './ip-batch.ts'

export interface HostAddress {
  device: string
  address: string
  prefixLength: number
  /** Of IPv4 addresses: the name of the device, or what was given with the address. */
  label: string | undefined
}

export interface HostRoute {
  /** A network as a.b.c.d/n, an address without a length, or `default`. */
  destination: string
  /** Absent for routes that lead nowhere or over several devices. */
  device: string | undefined
  /** Who made it, as rt_protos(5): kernel, boot, static, ra, dhcp … */
  protocol: string | undefined
  /** unicast, local, broadcast, blackhole … */
  type: string
}

interface AddressEntry {
  ifname: string
  addr_info: Array<{ local?: string, prefixlen?: number, label?: string }>
}

interface RouteEntry {
  dst: string
  dev: string
  protocol: string
  type: string
}

/** The addresses of one device, or of all. */
export async function listAddresses (device?: string): Promise<HostAddress[]> {
  const entries = await readIpJson<AddressEntry>(['address', 'show', ...(device === undefined ? [] : ['dev', device])])
  return entries.flatMap(({ ifname, addr_info: infos = [] }) => infos.flatMap(({ local, prefixlen, label }) =>
    ifname === undefined || local === undefined || prefixlen === undefined ? [] : [{ device: ifname, address: local, prefixLength: prefixlen, label }]))
}

/** The routes of all tables of a family. Of a family that the kernel does not have there are none. */
export async function listRoutes (family: 4 | 6): Promise<HostRoute[]> {
  const entries = await readIpJson<RouteEntry>([`-${family}`, 'route', 'show', 'table', 'all'])
  return entries.flatMap(({ dst, dev, protocol, type = 'unicast' }) => dst === undefined ? [] : [{ destination: dst, device: dev, protocol, type }])
}

/** IPv4 addresses that this host has or has a route to of their own, with the device. */
export async function listUsedAddresses (): Promise<Array<{ address: string, device: string | undefined }>> {
  const [addresses, routes] = await Promise.all([listAddresses(), listRoutes(4)])
  return [...addresses, ...routes.map(({ destination, device }) => ({ address: destination, device }))]
}

const usualMtu = 1500
// The least that IPv6 works with (RFC 8200, section 5), and the most that networks of data centres have.
const leastMtu = 1280
const greatestMtu = 9000

/** The size of packets in bytes that leave the host whole: that of the device of the default route, or 1500. */
export async function readUplinkMtu (): Promise<number> {
  const routes = [...await listRoutes(4), ...await listRoutes(6)]
  const device = routes.find(({ destination, device: through, type }) => destination === 'default' && type === 'unicast' && through !== undefined)?.device
  if (device === undefined) return usualMtu
  const [link] = await readIpJson<{ mtu: number }>(['link', 'show', 'dev', device])
  return Math.min(Math.max(link?.mtu ?? usualMtu, leastMtu), greatestMtu)
}
