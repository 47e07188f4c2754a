/** The connection to a gateway, as addresses of sandboxes come over it. */
import assert from 'node:assert/strict'
import { status, ServerCredentials } from '@grpc/grpc-js'
import { once } from 'node:events'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { pollUntil } from '../../../src/lib/poll.ts'
import { buildGateway, makeCertificate } from './gateway-rig.ts'

const lease = 'berth-abcdef-0002'

test('an address is allocated by name of the lease and the worker, and released', async t => {
  const { gateway, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  assert.deepEqual(await client.allocate(lease), { ipv4: '10.64.3.10', gateway4: '10.64.0.1', prefixLength: 16 })
  assert.deepEqual([...gateway.leases], [[lease, '10.64.3.10']])
  await client.release(lease)
  assert.equal(gateway.leases.size, 0)
  assert.deepEqual(gateway.calls, [`allocate ${lease} hst_one`, `release ${lease}`])
})

test('a lease that the gateway does not know is released', async t => {
  const { gateway, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  gateway.refusal = { code: status.NOT_FOUND, details: 'no such lease' }
  await client.release(lease)
  assert.deepEqual(gateway.calls, [`release ${lease}`])
})

test('what the gateway refuses says what to do', async t => {
  const { gateway, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  gateway.refusal = { code: status.RESOURCE_EXHAUSTED, details: 'none left' }
  await assert.rejects(client.allocate(lease), { kind: 'exhausted', code: 'addresses_exhausted' })
  gateway.refusal = { code: status.INTERNAL, details: 'the store is away' }
  await assert.rejects(client.allocate(lease), { kind: 'unavailable', code: 'addresses_unavailable', message: /INTERNAL/ })
  await assert.rejects(client.release(lease), { code: 'addresses_unavailable' })
})

test('a token that was replaced is used by the next call, and one that is wrong is told', async t => {
  const { gateway, tokenFile, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  gateway.token = 'another'
  await assert.rejects(client.allocate(lease), { code: 'addresses_unavailable', message: /BERTH_GATEWAY_TOKEN_FILE/ })
  writeFileSync(tokenFile, 'another')
  assert.equal((await client.allocate(lease)).ipv4, '10.64.3.10')
  chmodSync(tokenFile, 0o644)
  await assert.rejects(client.allocate(lease), { code: 'addresses_unavailable', message: /BERTH_GATEWAY_TOKEN_FILE/ })
})

test('a gateway that is away is told, and found when it is back', async t => {
  const { gateway, open } = await buildGateway(t)
  const port = await gateway.listen()
  gateway.close()
  const client = await open(`127.0.0.1:${port}`)
  await assert.rejects(client.allocate(lease), { kind: 'unavailable', code: 'addresses_unavailable', message: /does not answer/ })
  await gateway.listen(`127.0.0.1:${port}`)
  assert.ok(await pollUntil(() => client.allocate(lease).then(() => true, () => false), 20_000))
})

test('a gateway that never answers is given up, and asked again', async t => {
  const { gateway, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`, { callTimeoutMs: 2000 })
  gateway.isSilent = true
  await assert.rejects(client.allocate(lease), { code: 'addresses_unavailable', message: /does not answer/ })
  gateway.isSilent = false
  assert.equal((await client.allocate(lease)).ipv4, '10.64.3.10')
})

test('a connection over which nothing comes back is left for another', async t => {
  const { gateway, open } = await buildGateway(t)
  const port = await gateway.listen()
  const sockets: Socket[] = []
  const between = createServer(outer => {
    const inner = connect(port, '127.0.0.1')
    sockets.push(outer, inner)
    for (const socket of [outer, inner]) socket.on('error', () => {})
    outer.pipe(inner).pipe(outer)
  }).listen(0, '127.0.0.1')
  await once(between, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    between.close()
  })
  const client = await open(`127.0.0.1:${(between.address() as AddressInfo).port}`, { callTimeoutMs: 2000 })
  await client.allocate(lease)
  const [outer, inner] = sockets
  outer!.unpipe(inner)
  await assert.rejects(client.allocate(lease), { message: /does not answer/ })
  assert.equal((await client.allocate(lease)).ipv4, '10.64.3.10')
  assert.equal(sockets.length, 4)
})

test('with authorities, only a gateway that they have signed is told the token', async t => {
  const { dir, gateway, open } = await buildGateway(t)
  const [own, other] = [makeCertificate(dir, 'own'), makeCertificate(dir, 'other')]
  const port = await gateway.listen('127.0.0.1:0', ServerCredentials.createSsl(null, [{ private_key: readFileSync(own.key), cert_chain: readFileSync(own.cert) }]))
  await assert.rejects((await open(`localhost:${port}`, { caFile: other.cert })).allocate(lease), { code: 'addresses_unavailable' })
  await assert.rejects((await open(`localhost:${port}`)).allocate(lease), { code: 'addresses_unavailable' })
  assert.deepEqual(gateway.calls, [])
  assert.equal((await (await open(`localhost:${port}`, { caFile: own.cert })).allocate(lease)).ipv4, '10.64.3.10')
})

test('files that cannot be used are told at the start', async t => {
  const { dir, tokenFile, open } = await buildGateway(t)
  const target = '127.0.0.1:1'
  await assert.rejects(open(target, { caFile: join(dir, 'absent') }), { code: 'invalid_config', message: /BERTH_GATEWAY_CA_FILE: it cannot be read \(ENOENT\)/ })
  writeFileSync(join(dir, 'nonsense'), 'no certificate')
  await assert.rejects(open(target, { caFile: join(dir, 'nonsense') }), { code: 'invalid_config', message: /BERTH_GATEWAY_CA_FILE/ })
  writeFileSync(tokenFile, 'two\nlines')
  await assert.rejects(open(target), { code: 'invalid_config', message: /BERTH_GATEWAY_TOKEN_FILE: it holds no token/ })
  chmodSync(tokenFile, 0o640)
  await assert.rejects(open(target), { code: 'invalid_config', message: /chmod 600/ })
})

test('a gateway that asks for a certificate gets the one of this host, and no other is let in', async t => {
  const { dir, gateway, open } = await buildGateway(t)
  const [server, own, other] = ['server', 'own', 'other'].map(name => makeCertificate(dir, name))
  const port = await gateway.listen('127.0.0.1:0', ServerCredentials.createSsl(readFileSync(own!.cert), [{ private_key: readFileSync(server!.key), cert_chain: readFileSync(server!.cert) }], true))
  const caFile = server!.cert
  const client = await open(`localhost:${port}`, { caFile, certFile: own!.cert, keyFile: own!.key })
  assert.equal((await client.allocate(lease)).ipv4, '10.64.3.10')
  await assert.rejects((await open(`localhost:${port}`, { caFile, certFile: other!.cert, keyFile: other!.key })).allocate(lease), { code: 'addresses_unavailable' })
  await assert.rejects((await open(`localhost:${port}`, { caFile })).allocate(lease), { code: 'addresses_unavailable' })
  assert.equal(gateway.knocks, 1)
})

test('a certificate of this host that cannot be used is told at the start, and its key is not shown', async t => {
  const { dir, open } = await buildGateway(t)
  const [own, other] = [makeCertificate(dir, 'own'), makeCertificate(dir, 'other')]
  const files = { caFile: own.cert, certFile: own.cert, keyFile: own.key }
  const refused = async (given: object, message: RegExp) => assert.rejects(open('127.0.0.1:1', given), { code: 'invalid_config', message })
  await refused({ ...files, keyFile: undefined }, /BERTH_GATEWAY_CERT_FILE: .*BERTH_GATEWAY_KEY_FILE/)
  await refused({ ...files, certFile: undefined }, /BERTH_GATEWAY_KEY_FILE: .*BERTH_GATEWAY_CERT_FILE/)
  await refused({ ...files, caFile: undefined }, /BERTH_GATEWAY_CERT_FILE: .*BERTH_GATEWAY_CA_FILE/)
  await refused({ ...files, certFile: own.key }, /BERTH_GATEWAY_CERT_FILE: it holds no certificate/)
  await refused({ ...files, keyFile: join(dir, 'absent') }, /BERTH_GATEWAY_KEY_FILE: it cannot be read \(ENOENT\)/)
  await refused({ ...files, keyFile: other.key }, /BERTH_GATEWAY_KEY_FILE: it is not the key of the certificate/)
  chmodSync(own.cert, 0o600)
  await refused({ ...files, keyFile: own.cert }, /BERTH_GATEWAY_KEY_FILE: it holds no private key/)
  chmodSync(own.key, 0o644)
  await refused(files, /BERTH_GATEWAY_KEY_FILE: .*chmod 600/)
})
