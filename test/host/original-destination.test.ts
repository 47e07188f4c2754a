/** Real connections that a packet filter leads elsewhere, in a network namespace of the test's own. */
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const modulePath = fileURLToPath(new URL('../../src/host/original-destination.ts', import.meta.url))

// Runs inside: accepts one connection on each listener and tells what was meant.
const program = `
  import { once } from 'node:events'
  import net from 'node:net'
  const { originalDestination } = await import(process.argv[1])
  const found = {}
  for (const [name, listen, meant] of [
    ['ipv4', '127.0.0.1', '203.0.113.7'], ['ipv6', '::1', '2001:db8::7'], ['mapped', '::', '203.0.113.8'], ['direct', '127.0.0.1', '127.0.0.1'],
  ]) {
    const server = net.createServer()
    server.listen(name === 'direct' ? 0 : name === 'mapped' ? 8081 : 8080, listen)
    await once(server, 'listening')
    const client = net.connect(name === 'direct' ? server.address().port : 443, meant)
    const [socket] = await once(server, 'connection')
    found[name] = originalDestination(socket)
    if (name === 'direct') found.isLocalPort = found.direct?.port === server.address().port
    socket.destroy()
    found.closed = originalDestination(socket) ?? null
    client.destroy()
    server.close()
  }
  console.log(JSON.stringify(found))
`

const rules = `
table inet berth_test {
  chain out {
    type nat hook output priority -100;
    ip daddr 203.0.113.7 tcp dport 443 dnat ip to 127.0.0.1:8080
    ip daddr 203.0.113.8 tcp dport 443 dnat ip to 127.0.0.1:8081
    ip6 daddr 2001:db8::7 tcp dport 443 dnat ip6 to [::1]:8080
  }
}
`

test('the destination before DNAT is found, for both families', t => {
  const name = `berth-test-${randomBytes(4).toString('hex')}`
  const run = (program: string, argv: string[], input = ''): string => execFileSync(program, argv, { input, encoding: 'utf8', timeout: 20_000, stdio: ['pipe', 'pipe', 'pipe'] })
  run('ip', ['netns', 'add', name])
  t.after(() => {
    run('ip', ['netns', 'del', name])
    assert.equal(existsSync(`/run/netns/${name}`), false)
  })
  const inside = ['--net=/run/netns/' + name]
  const setUp = 'link set lo up\nroute add 203.0.113.0/24 dev lo\nroute add 2001:db8::/64 dev lo\naddr add 10.9.9.9/32 dev lo\naddr add fd09::9/128 dev lo nodad\n'
  run('nsenter', [...inside, 'ip', '-batch', '-'], setUp)
  run('nsenter', [...inside, 'sysctl', '-qw', 'net.ipv4.conf.all.route_localnet=1'])
  run('nsenter', [...inside, 'nft', '-f', '-'], rules)
  const output = run('nsenter', [...inside, process.execPath, '--disable-warning=ExperimentalWarning', '--input-type=module', '-e', program, modulePath])
  const { direct, ...found } = JSON.parse(output) as Record<string, unknown>
  assert.deepEqual(found, {
    ipv4: { address: '203.0.113.7', port: 443 },
    ipv6: { address: '2001:db8::7', port: 443 },
    mapped: { address: '203.0.113.8', port: 443 },
    isLocalPort: true,
    closed: null,
  })
  assert.equal((direct as { address: string }).address, '127.0.0.1')
})
