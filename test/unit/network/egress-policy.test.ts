import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { decideAddress, decideName, isNameResolvable, parseEgress, portsToOpen, type EgressPolicy } from '../../../src/services/network/egress-policy.ts'

const pools = { pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' }
const rules = (allow: string[], deny?: string[]): EgressPolicy => parseEgress({ allow, ...deny && { deny } }, pools)
const shortly = ({ action, reason, entry }: { action: string, reason: string, entry?: string }): string => `${action} ${reason}${entry === undefined ? '' : ` ${entry}`}`

const addresses: [entry: string, cidr: string, port?: number][] = [
  ['203.0.113.7', '203.0.113.7/32'],
  ['203.0.113.7:443', '203.0.113.7/32', 443],
  ['10.1.2.3/16', '10.1.0.0/16'],
  ['10.1.0.0/16:5432', '10.1.0.0/16', 5432],
  ['FD12:0::5', 'fd12::5/128'],
  ['fd12::5/48', 'fd12::/48'],
  ['fd12::5:5432', 'fd12::5:5432/128'],
  ['[fd12::5]', 'fd12::5/128'],
  ['[fd12::5]:5432', 'fd12::5/128', 5432],
  ['[fd12::/48]:1', 'fd12::/48', 1],
  ['10.0.0.0/9', '10.0.0.0/9'],
]

for (const [entry, cidr, port] of addresses) {
  test(`address ${entry} is ${cidr}${port === undefined ? '' : ` port ${port}`}`, () => {
    const { allow } = rules([entry])
    assert.deepEqual(allow, { addresses: [{ entry, family: cidr.includes(':') ? 6 : 4, cidr, ...port !== undefined && { port } }], domains: [] })
  })
}

const domains: [entry: string, pattern: string, port?: number][] = [
  ['example.com', 'example.com'],
  ['Example.COM.', 'example.com'],
  ['example.com:22', 'example.com', 22],
  ['*.example.com', '*.example.com'],
  ['*.Bücher.example:8443', '*.xn--bcher-kva.example', 8443],
  ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
  ['例え。jp', 'xn--r8jz45g.jp'],
  ['*', '*'],
  ['*:22', '*', 22],
  ['_sip.example.com', '_sip.example.com'],
  ['r3---sn.example.com', 'r3---sn.example.com'],
  ['database', 'database'],
  ['1password.com', '1password.com'],
  [`${'a'.repeat(63)}.com`, `${'a'.repeat(63)}.com`],
]

for (const [entry, pattern, port] of domains) {
  test(`domain ${entry} is ${pattern}${port === undefined ? '' : ` port ${port}`}`, () => {
    const { allow, isProxied } = rules([entry])
    assert.deepEqual(allow, { addresses: [], domains: [{ entry, pattern, ...port !== undefined && { port } }] })
    assert.equal(isProxied, true)
  })
}

const refused: [entry: string, message: RegExp][] = [
  ['300.1.2.3', /looks like an address/],
  ['10.0.0', /looks like an address/],
  ['10.0.0.01', /looks like an address/],
  ['0x7f.1', /looks like an address/],
  ['2130706433', /looks like an address/],
  ['１２７.0.0.1', /looks like an address/],
  ['example.123', /looks like an address/],
  ['300.1.2.3:80', /looks like an address/],
  ['10.0.0.0/33', /not a network/],
  ['10.0.0/8', /not a network/],
  ['fd12::/129', /not a network/],
  ['example.com/path', /not a network/],
  ['fe80::1%eth0', /not an IPv6 address/],
  ['fd12::5::1', /not an IPv6 address/],
  ['[10.0.0.1]:80', /brackets/],
  ['[fd12::5', /not an IPv6 address/],
  ['[fd12::5]:', /for a port/],
  ['203.0.113.7:', /for a port/],
  ['203.0.113.7:0', /for a port/],
  ['203.0.113.7:65536', /from 1 to 65535/],
  ['203.0.113.7:http', /for a port/],
  ['example.com:', /for a port/],
  ['example.com:080', /for a port/],
  ['https://example.com/x', /write only the name: example\.com/],
  ['*.*.example.com', /\* in its midst/],
  ['a.*.example.com', /\* in its midst/],
  ['*example.com', /\* in its midst/],
  ['*.', /neither/],
  ['.', /not a domain/],
  ['.example.com', /not a domain/],
  ['a..example.com', /not a domain/],
  ['-a.example.com', /not a domain/],
  ['a-.example.com', /not a domain/],
  [`${'a'.repeat(64)}.com`, /63 characters/],
  [`${'a.'.repeat(127)}com`, /not a domain/],
  ['exa mple.com', /neither/],
  [' example.com', /neither/],
  ['user@example.com', /neither/],
  ['example.com\n', /neither/],
  ['127.0.0.1', /127\.0\.0\.0\/8 \(loopback\).*leave it out/],
  ['169.254.169.254:80', /metadata.*leave it out/],
  ['::1', /loopback/],
  ['::ffff:10.0.0.1', /IPv4-mapped/],
  ['64:ff9b::a00:1', /NAT64/],
  ['10.200.3.0/24', /addresses of sandboxes/],
  ['fd00:a1b2::7', /addresses of sandboxes/],
  ['10.0.0.0/8', /contains 10\.200\.0\.0\/16 \(addresses of sandboxes\).*10\.0\.0\.0\/9, 10\.128\.0\.0\/10, .*10\.224\.0\.0\/11/],
  ['10.200.0.0/15:22', /10\.201\.0\.0\/16:22$/],
  ['[fd00:a1b2::/63]:22', /\[fd00:a1b2:0:1::\/64\]:22$/],
  ['fd00::/16', /contains.*smaller networks/],
  ['192.168.0.0/15', /contains public addresses and with 192\.168\.0\.0\/16/],
  ['0.0.0.0/0', /covers every address.*"internet"/],
  ['::/0:443', /not a network/],
  ['[::/0]:443', /covers every address/],
  ['2000::/3', /contains 2001::\/32/],
]

for (const [entry, message] of refused) {
  test(`refused: ${JSON.stringify(entry.slice(0, 60))}`, () => {
    assert.throws(() => rules(['example.org', entry]), (error: unknown) => {
      assert.ok(error instanceof BerthError)
      assert.deepEqual([error.kind, error.code, error.details], ['invalid_argument', 'invalid_egress', { entry }])
      assert.match(error.message, message)
      return true
    })
  })
}

test('what may not be allowed may be denied, but internet is allowed or is not', () => {
  const { deny } = rules(['internet'], ['0.0.0.0/0', '10.0.0.0/8', '127.0.0.1', '[::/0]:25'])
  assert.deepEqual(deny.addresses.map(rule => [rule.cidr, rule.port]), [['0.0.0.0/0', undefined], ['10.0.0.0/8', undefined], ['127.0.0.1/32', undefined], ['::/0', 25]])
  assert.throws(() => rules([], ['internet']), /leave it out of allow/)
})

test('a name\'s single port cannot be denied where packets go everywhere, unless the proxy sees it', () => {
  assert.throws(() => rules(['internet'], ['example.com:25']), { code: 'invalid_egress', message: /write "example\.com"/ })
  rules(['internet'], ['example.com', 'example.com:443', 'example.com:80'])
  rules(['*.example.com:25'], ['a.example.com:25'])
})

test('the two words are policies of their own', () => {
  const empty = { addresses: [], domains: [] }
  assert.deepEqual(parseEgress('none', pools), { mode: 'none', hasInternet: false, allow: empty, deny: empty, isProxied: false })
  assert.deepEqual(parseEgress('internet', pools), { mode: 'internet', hasInternet: false, allow: empty, deny: empty, isProxied: false })
  assert.deepEqual(rules(['internet']), { mode: 'rules', hasInternet: true, allow: empty, deny: empty, isProxied: false })
  assert.equal(rules(['internet'], ['evil.example']).isProxied, true, 'what is denied by name has to be read')
  assert.equal(rules(['10.1.2.3']).isProxied, false)
})

const policies: Record<string, EgressPolicy> = {
  none: parseEgress('none', pools),
  internet: parseEgress('internet', pools),
  closed: rules([]),
  rules: rules(['203.0.113.0/24', '10.1.2.3:5432', '[fd12::5]:5432'], ['203.0.113.66', '203.0.113.0/24:25']),
  open: rules(['internet', '10.1.2.3'], ['203.0.113.66', '[2001:db8::/32]:25']),
}

const byAddress: [policy: string, address: string, port: number, expected: string][] = [
  ['none', '203.0.113.7', 443, 'denied egress_none'],
  ['none', '169.254.169.254', 80, 'denied forbidden_address'],
  ['internet', '203.0.113.7', 443, 'allowed rule internet'],
  ['internet', '2001:db8::7', 443, 'allowed rule internet'],
  ['internet', '10.1.2.3', 443, 'denied private_address'],
  ['internet', '10.200.0.9', 443, 'denied forbidden_address'],
  ['internet', '::ffff:203.0.113.7', 443, 'denied forbidden_address'],
  ['internet', 'nonsense', 443, 'denied forbidden_address'],
  ['closed', '203.0.113.7', 443, 'denied no_rule'],
  ['rules', '203.0.113.7', 443, 'allowed rule 203.0.113.0/24'],
  ['rules', '203.0.113.66', 443, 'denied rule 203.0.113.66'],
  ['rules', '203.0.113.7', 25, 'denied rule 203.0.113.0/24:25'],
  ['rules', '203.0.114.7', 443, 'denied no_rule'],
  ['rules', '10.1.2.3', 5432, 'allowed rule 10.1.2.3:5432'],
  ['rules', '10.1.2.3', 5433, 'denied private_address'],
  ['rules', 'FD12:0::5', 5432, 'allowed rule [fd12::5]:5432'],
  ['rules', 'fd12::6', 5432, 'denied private_address'],
  ['open', '198.51.100.1', 1, 'allowed rule internet'],
  ['open', '10.1.2.3', 1, 'allowed rule 10.1.2.3'],
  ['open', '10.1.2.4', 1, 'denied private_address'],
  ['open', '203.0.113.66', 1, 'denied rule 203.0.113.66'],
  ['open', '2001:db8::9', 25, 'denied rule [2001:db8::/32]:25'],
  ['open', '2001:db8::9', 26, 'allowed rule internet'],
]

for (const [policy, address, port, expected] of byAddress) {
  test(`policy ${policy}, address ${address} port ${port}: ${expected}`, () => {
    const chosen = policies[policy]
    assert.ok(chosen !== undefined)
    assert.equal(shortly(decideAddress(chosen, address, port, pools)), expected)
  })
}

const named = rules(['example.com', '*.wild.example', 'git.example.com:22', 'git.example.com:443', '*.shell.example:22', 'a.shell.example:2222', 'both.example', 'both.example:8443'],
  ['bad.wild.example', '*.worse.wild.example', 'b.shell.example:22', 'both.example:80', 'mute.example'])

const byName: [name: string, port: number, expected: string][] = [
  ['example.com', 443, 'allowed rule example.com'],
  ['EXAMPLE.com.', 80, 'allowed rule example.com'],
  ['example.com', 22, 'denied no_rule'],
  ['www.example.com', 443, 'denied no_rule'],
  ['notexample.com', 443, 'denied no_rule'],
  ['wild.example', 443, 'denied no_rule'],
  ['.wild.example', 443, 'denied no_rule'],
  ['a.wild.example', 443, 'allowed rule *.wild.example'],
  ['a.b.c.wild.example', 443, 'allowed rule *.wild.example'],
  ['bad.wild.example', 443, 'denied rule bad.wild.example'],
  ['bad.wild.example', 22, 'denied rule bad.wild.example'],
  ['x.bad.wild.example', 443, 'allowed rule *.wild.example'],
  ['x.worse.wild.example', 443, 'denied rule *.worse.wild.example'],
  ['git.example.com', 443, 'allowed rule git.example.com:443'],
  ['git.example.com', 80, 'denied no_rule'],
  ['git.example.com', 22, 'allowed rule git.example.com:22'],
  ['both.example', 80, 'denied rule both.example:80'],
  ['both.example', 443, 'allowed rule both.example'],
]

for (const [name, port, expected] of byName) {
  test(`name ${name} port ${port}: ${expected}`, () => assert.equal(shortly(decideName(named, name, port)), expected))
}

test('what no domain says about is for the address to decide, and none is none', () => {
  const everything = rules(['internet'], ['evil.example'])
  assert.equal(shortly(decideName(everything, 'example.com', 443)), 'denied no_rule')
  assert.equal(shortly(decideName(everything, 'evil.example', 443)), 'denied rule evil.example')
  assert.equal(shortly(decideName(parseEgress('none', pools), 'example.com', 443)), 'denied egress_none')
  assert.equal(shortly(decideName(rules(['*'], ['*.evil.example']), 'example.com', 443)), 'allowed rule *')
})

const resolvable: [policy: EgressPolicy, name: string, expected: string][] = [
  [parseEgress('none', pools), 'example.com', 'denied egress_none'],
  [parseEgress('internet', pools), 'example.com', 'allowed rule internet'],
  [named, 'example.com', 'allowed rule example.com'],
  [named, 'git.example.com', 'allowed rule git.example.com:22'],
  [named, 'www.example.com', 'denied no_rule'],
  [named, 'bad.wild.example', 'denied rule bad.wild.example'],
  [named, 'both.example', 'allowed rule both.example'],
  [named, 'b.shell.example', 'denied rule b.shell.example:22'],
  [named, 'mute.example', 'denied rule mute.example'],
  [rules(['internet'], ['evil.example', '*.evil.example']), 'www.evil.example', 'denied rule *.evil.example'],
  [rules(['internet'], ['evil.example:443']), 'evil.example', 'allowed rule internet'],
  [rules(['10.1.2.3']), 'example.com', 'denied no_rule'],
]

for (const [index, [policy, name, expected]] of resolvable.entries()) {
  test(`question ${index + 1} for ${name}: ${expected}`, () => assert.equal(shortly(isNameResolvable(policy, name)), expected))
}

test('ports to open are those that the proxy does not serve and no entry denies', () => {
  assert.deepEqual(portsToOpen(named, 'git.example.com'), [22])
  assert.deepEqual(portsToOpen(named, 'A.shell.example'), [22, 2222])
  assert.deepEqual(portsToOpen(named, 'b.shell.example'), [])
  assert.deepEqual(portsToOpen(named, 'both.example'), [8443])
  assert.deepEqual(portsToOpen(named, 'example.com'), [])
  assert.deepEqual(portsToOpen(rules(['internet', 'git.example.com:22']), 'git.example.com'), [], 'its public addresses are open')
  assert.deepEqual(portsToOpen(parseEgress('internet', pools), 'git.example.com'), [])
})

test('a policy survives being sent as JSON', () => {
  const copy = JSON.parse(JSON.stringify(policies['rules'])) as EgressPolicy
  assert.deepEqual(copy, policies['rules'])
  assert.equal(decideAddress(copy, '10.1.2.3', 5432, pools).action, 'allowed')
})
