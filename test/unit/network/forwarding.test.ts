import { test } from 'node:test'
import assert from 'node:assert/strict'
import { configureForwarding, readForwarding, type ForwardingHost } from '../../../src/services/network/forwarding.ts'

type Route = Awaited<ReturnType<ForwardingHost['listRoutes']>>[number]

/** A host of settings in memory; what was written to it is kept in order. */
function build (settings: Record<string, string>, routes: Route[] = []) {
  const values = new Map(Object.entries(settings))
  const written: string[] = []
  const host: ForwardingHost = {
    readSysctl: async path => values.get(path),
    async writeSysctl (path, value) {
      assert.ok(values.has(path), `${path} is a setting`)
      written.push(path)
      values.set(path, value)
    },
    listRoutes: async () => routes,
  }
  return { host, values, written }
}

const closed = { 'net/ipv4/ip_forward': '0', 'net/ipv6/conf/all/forwarding': '0', 'net/ipv6/conf/eth0/accept_ra': '1', 'net/ipv6/conf/eth0.5/accept_ra': '1', 'net/ipv6/conf/wlan0/accept_ra': '0' }
const learnt = (device: string): Route => ({ destination: 'default', device, protocol: 'ra' })

test('a host is made to forward, and says what was changed', async () => {
  const { host } = build(closed)
  assert.deepEqual(await readForwarding(host), { ipv4: false, ipv6: false })
  assert.deepEqual(await configureForwarding(host), ['net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1'])
  assert.deepEqual(await readForwarding(host), { ipv4: true, ipv6: true })
})

test('nothing is changed a second time', async () => {
  const { host, written } = build(closed, [learnt('eth0')])
  await configureForwarding(host)
  written.length = 0
  assert.deepEqual(await configureForwarding(host), [])
  assert.deepEqual(written, [])
})

test('a device that routers announce themselves to goes on listening, told so before the host forwards', async () => {
  const { host, written, values } = build(closed, [learnt('eth0.5'), learnt('eth0.5'), learnt('wlan0'), { destination: 'default', device: 'eth0', protocol: 'static' }])
  assert.deepEqual(await configureForwarding(host), ['net.ipv4.ip_forward=1', 'net.ipv6.conf.eth0/5.accept_ra=2', 'net.ipv6.conf.all.forwarding=1'])
  assert.ok(written.indexOf('net/ipv6/conf/eth0.5/accept_ra') < written.indexOf('net/ipv6/conf/all/forwarding'))
  assert.equal(values.get('net/ipv6/conf/eth0/accept_ra'), '1', 'its route is not by announcement')
  assert.equal(values.get('net/ipv6/conf/wlan0/accept_ra'), '0', 'a program listens in the place of the kernel')
})

test('a host that forwards IPv6 already keeps all that is about it', async () => {
  const { host, written } = build({ ...closed, 'net/ipv6/conf/all/forwarding': '1' }, [learnt('eth0')])
  assert.deepEqual(await configureForwarding(host), ['net.ipv4.ip_forward=1'])
  assert.deepEqual(written, ['net/ipv4/ip_forward'])
})

test('a host without IPv6 forwards IPv4', async () => {
  const { host } = build({ 'net/ipv4/ip_forward': '0' })
  assert.deepEqual(await configureForwarding(host), ['net.ipv4.ip_forward=1'])
  assert.deepEqual(await readForwarding(host), { ipv4: true, ipv6: false })
})
