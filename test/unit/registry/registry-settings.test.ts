import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseChallenges } from '../../../src/services/images/registry/auth-challenge.ts'
import { defaultRegistrySettings, InsecureHosts, parseInsecure, parseMirrors } from '../../../src/services/images/registry/registry-settings.ts'

test('mirrors are read per registry, in order', () => {
  assert.deepEqual([...parseMirrors(' docker.io=https://mirror.example/hub, http://10.0.0.1:5000 ; ghcr.io=m:5000;')], [
    ['docker.io', ['https://mirror.example/hub', 'http://10.0.0.1:5000']],
    ['ghcr.io', ['m:5000']],
  ])
  assert.deepEqual([...parseMirrors('')], [])
  for (const text of ['x', '=m', 'docker.io=', 'docker.io=ftp://x', 'docker.io=https://u:p@x', 'docker.io=https://x?y', 'docker.io=a b', 'a/b=c']) {
    assert.throws(() => parseMirrors(text), Error, text)
  }
})

test('insecure hosts are names, with or without a port, addresses and networks', () => {
  assert.deepEqual(parseInsecure('Registry.lan, 10.0.0.0/8,[::1]:5000, fd00::/8,other:5000'), ['registry.lan', '10.0.0.0/8', '[::1]:5000', 'fd00::/8', 'other:5000'])
  for (const text of ['10.0.0.0/33', 'a/b', 'http://x', 'x:y', '10.0.0.0/8/8']) assert.throws(() => parseInsecure(text), Error, text)
  const hosts = new InsecureHosts(parseInsecure('registry.lan,10.0.0.0/8,fd00::/8,other:5000,1.2.3.4'))
  const includes = (text: string) => hosts.includes(new URL(`https://${text}`))
  for (const host of ['registry.lan', 'registry.lan:80', '10.1.2.3:5000', '[fd00::1]:5000', 'other:5000', '1.2.3.4']) assert.equal(includes(host), true, host)
  for (const host of ['a.registry.lan', 'other', 'other:5001', '11.0.0.1', '[fe80::1]', '1.2.3.5', '10.example']) assert.equal(includes(host), false, host)
})

test('only loopback is insecure if nothing else is said', () => {
  const hosts = new InsecureHosts(defaultRegistrySettings.insecure)
  for (const host of ['localhost:5000', '127.0.0.1:5000', '127.9.9.9', '[::1]:5000']) assert.equal(hosts.includes(new URL(`https://${host}`)), true, host)
  for (const host of ['localhost.example', '10.0.0.1', 'docker.io', '[::2]']) assert.equal(hosts.includes(new URL(`https://${host}`)), false, host)
})

test('challenges are read however they are written', () => {
  const read = (header: string | string[] | undefined) => parseChallenges(header).map(({ scheme, params }) => [scheme, Object.fromEntries(params)])
  assert.deepEqual(read('Bearer realm="https://a/t",service="s, \\"x\\"",scope="repository:a/b:pull,push"'), [
    ['bearer', { realm: 'https://a/t', service: 's, "x"', scope: 'repository:a/b:pull,push' }],
  ])
  assert.deepEqual(read(['Basic realm=x', 'BEARER Realm = "y"']), [['basic', { realm: 'x' }], ['bearer', { realm: 'y' }]])
  assert.deepEqual(read('Negotiate, Basic realm="a", Bearer realm="b"'), [['negotiate', {}], ['basic', { realm: 'a' }], ['bearer', { realm: 'b' }]])
  for (const header of [undefined, '', '"', '=', ',,,', '\u00ff', 'realm="x"']) assert.deepEqual(read(header), [], String(header))
  assert.equal(read(`Basic realm="${'\\'.repeat(40_000)}`).length <= 2, true)
})
