import { test } from 'node:test'
import assert from 'node:assert/strict'
import type { Egress } from '../../../src/schemas/network.ts'
import { parseEgress, type EgressPolicy } from '../../../src/services/network/egress-policy.ts'
import { type EgressRefusal, EgressRouter, readOwnAddresses, type EgressTarget } from '../../../src/services/network/server/egress-route.ts'

const pools = { pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' }

function build (names: Record<string, string[]> = {}): EgressRouter {
  return new EgressRouter({
    pools,
    hostAddresses: () => new Set(['198.51.100.1', '10.1.0.9']),
    async resolve (name, family) {
      const all = names[name]
      if (all === undefined) throw new Error('no answer')
      return { addresses: all.filter(address => address.includes(':') === (family === 6)), ttlSeconds: 60 }
    },
  })
}

const policy = (egress: Egress): EgressPolicy => parseEgress(egress, pools)
const tls = (name: string | undefined, address?: string): EgressTarget =>
  ({ kind: 'tls', port: 443, ...name !== undefined && { name }, ...address !== undefined && { original: { address, port: 443 } } })

const ruling = (egress: Egress, target: EgressTarget): string => {
  const { action, reason, by, entry } = build().rule(policy(egress), target)
  return [action, reason, by, entry].filter(part => part !== undefined).join(' ')
}

test('a name that is allowed leads, whatever address is asked for', () => {
  assert.equal(ruling({ allow: ['*.example.com'] }, tls('a.example.com', '169.254.169.254')), 'allowed rule name *.example.com')
  assert.equal(ruling({ allow: ['*'] }, tls('any.example')), 'allowed rule name *')
})

test('a name that is denied is refused, whatever address is asked for', () => {
  const egress = { allow: ['internet', '203.0.113.0/24'], deny: ['evil.example'] }
  assert.equal(ruling(egress, tls('evil.example', '203.0.113.7')), 'denied rule evil.example')
  assert.equal(ruling(egress, tls('other.example', '203.0.113.7')), 'allowed rule address 203.0.113.0/24')
  assert.equal(ruling(egress, tls('other.example', '192.0.2.7')), 'allowed rule address internet')
})

test('without a rule for the name, the address decides', () => {
  const egress = { allow: ['example.com', '203.0.113.7:443', '10.1.0.0/24'], deny: ['10.1.0.5'] }
  assert.equal(ruling(egress, tls('evil.example', '203.0.113.8')), 'denied no_rule')
  assert.equal(ruling(egress, tls('evil.example', '203.0.113.7')), 'allowed rule address 203.0.113.7:443')
  assert.equal(ruling(egress, tls(undefined, '10.1.0.4')), 'allowed rule address 10.1.0.0/24')
  assert.equal(ruling(egress, tls(undefined, '10.1.0.5')), 'denied rule 10.1.0.5')
  assert.equal(ruling(egress, tls(undefined, '10.1.0.9')), 'denied host_port')
  assert.equal(ruling(egress, tls(undefined, '203.0.113.8')), 'denied no_name')
  assert.equal(ruling(egress, tls(undefined)), 'denied no_name')
  assert.equal(ruling(egress, tls('evil.example')), 'denied no_rule')
  assert.equal(ruling(egress, tls(undefined, '169.254.169.254')), 'denied forbidden_address')
  assert.equal(ruling(egress, tls(undefined, '10.200.0.7')), 'denied forbidden_address')
})

test('a name leads only to addresses that it may lead to', async () => {
  const cases: [address: string, reason: string][] = [
    ['127.0.0.1', 'forbidden_address'], ['169.254.169.254', 'forbidden_address'], ['10.200.0.3', 'forbidden_address'], ['::1', 'forbidden_address'],
    ['::ffff:203.0.113.7', 'forbidden_address'], ['fd00:a1b2::3', 'forbidden_address'], ['0.0.0.0', 'forbidden_address'],
    ['10.9.9.9', 'private_address'], ['fd12::1', 'private_address'], ['198.51.100.1', 'host_port'], ['203.0.113.66', 'rule'],
  ]
  const rules = policy({ allow: ['a.example', '10.1.0.0/24'], deny: ['203.0.113.66'] })
  for (const [address, reason] of cases) {
    await assert.rejects(build({ 'a.example': [address] }).route(tls('a.example'), 'name', () => rules), (error: EgressRefusal) => {
      assert.deepEqual([address, error.decision.reason], [address, reason])
      return true
    })
  }
  const router = build({ 'a.example': ['127.0.0.1', '203.0.113.7', '10.9.9.9', '10.1.0.4', '2001:DB8:0::7'] })
  assert.deepEqual(await router.route(tls('a.example'), 'name', () => rules), { addresses: ['203.0.113.7', '10.1.0.4', '2001:db8::7'], port: 443 })
})

test('the address that the client chose comes first, then those of its family', async () => {
  const rules = policy({ allow: ['a.example'] })
  const router = build({ 'a.example': ['203.0.113.7', '203.0.113.8', '2001:db8::7', '2001:db8::8'] })
  const order = async (original?: string): Promise<string[] | undefined> => (await router.route(tls('a.example', original), 'name', () => rules))?.addresses
  assert.deepEqual(await order('203.0.113.8'), ['203.0.113.8', '203.0.113.7', '2001:db8::7', '2001:db8::8'])
  assert.deepEqual(await order('2001:db8::99'), ['2001:db8::7', '2001:db8::8', '203.0.113.7', '203.0.113.8'])
  assert.deepEqual(await order('192.0.2.1'), ['203.0.113.7', '203.0.113.8', '2001:db8::7', '2001:db8::8'])
})

test('a name that cannot be resolved is refused, and one family suffices', async () => {
  const rules = policy({ allow: ['*'] })
  await assert.rejects(build().route(tls('a.example'), 'name', () => rules), (error: EgressRefusal) => error.decision.reason === 'unresolvable')
  await assert.rejects(build({ 'a.example': [] }).route(tls('a.example'), 'name', () => rules), (error: EgressRefusal) => error.decision.reason === 'unresolvable')
  assert.deepEqual((await build({ 'a.example': ['2001:db8::7'] }).route(tls('a.example'), 'name', () => rules))?.addresses, ['2001:db8::7'])
})

test('a family that does not answer holds nothing up', async () => {
  const router = new EgressRouter({
    pools,
    hostAddresses: () => new Set(),
    resolve: async (_name, family) => family === 4 ? { addresses: ['203.0.113.7'], ttlSeconds: 1 } : await new Promise<never>(() => {}),
  })
  assert.deepEqual(await router.route(tls('a.example'), 'name', () => policy({ allow: ['*'] })), { addresses: ['203.0.113.7'], port: 443 })
})

test('the policy of the moment decides on addresses', async () => {
  const router = build({ 'a.example': ['10.1.0.4'] })
  assert.equal(await router.route(tls('a.example'), 'name', () => undefined), undefined)
  assert.deepEqual((await router.route(tls('a.example'), 'name', () => policy({ allow: ['a.example', '10.1.0.4'] })))?.addresses, ['10.1.0.4'])
})

test('a connection goes on while its name and its address are allowed', () => {
  const router = build()
  const mayGoOn = (egress: Egress, target: EgressTarget, address?: string): boolean => router.mayGoOn(policy(egress), target, address)
  const target = tls('a.example', '192.0.2.1')
  assert.equal(mayGoOn({ allow: ['a.example'] }, target, '203.0.113.7'), true)
  assert.equal(mayGoOn({ allow: ['a.example'], deny: ['203.0.113.7'] }, target, '203.0.113.7'), false)
  assert.equal(mayGoOn({ allow: ['b.example'] }, target, '203.0.113.7'), false)
  assert.equal(mayGoOn({ allow: ['b.example'] }, target), false)
  assert.equal(mayGoOn({ allow: ['internet'], deny: ['b.example'] }, target), true)
  // It went where the name led, which the address that was asked for does not justify.
  assert.equal(mayGoOn({ allow: ['192.0.2.1', 'b.example'] }, target, '203.0.113.7'), false)
  assert.equal(mayGoOn({ allow: ['192.0.2.1', 'b.example'] }, target, '192.0.2.1'), true)
})

test('addresses of this machine are known', () => {
  const own = readOwnAddresses()
  assert.ok(own().has('127.0.0.1'))
  assert.equal(own(), own())
})
