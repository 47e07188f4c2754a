/** This host's end of its gateway, against a real gRPC server. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { ServerCredentials, status } from '@grpc/grpc-js'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pollUntil } from '../../../src/lib/poll.ts'
import { GatewayClient } from '../../../src/worker/gateway-client.ts'
import { FakeGateway, gatewayToken } from '../../support/fake-gateway.ts'

const lease = 'berth-abcdef-0002'

async function build (t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-gateway-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const tokenFile = join(dir, 'token')
  writeFileSync(tokenFile, `${gatewayToken}\n`, { mode: 0o600 })
  const gateway = new FakeGateway()
  t.after(() => gateway.close())
  const open = async (target: string, caFile?: string) => {
    const client = await GatewayClient.open({ target, workerId: 'hst_one', tokenFile, callTimeoutMs: 1000, ...(caFile === undefined ? {} : { caFile }) })
    t.after(() => client.close())
    return client
  }
  return { dir, tokenFile, gateway, open }
}

test('an address is allocated by name of the lease and the worker, and released', async t => {
  const { gateway, open } = await build(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  assert.deepEqual(await client.allocate(lease), { ipv4: '10.64.3.10', gateway4: '10.64.0.1', prefixLength: 16 })
  assert.deepEqual([...gateway.leases], [[lease, '10.64.3.10']])
  await client.release(lease)
  assert.equal(gateway.leases.size, 0)
  assert.deepEqual(gateway.calls, [`allocate ${lease} hst_one`, `release ${lease}`])
})

test('a lease that the gateway does not know is released', async t => {
  const { gateway, open } = await build(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  gateway.refusal = { code: status.NOT_FOUND, details: 'no such lease' }
  await client.release(lease)
  assert.deepEqual(gateway.calls, [`release ${lease}`])
})

test('what the gateway refuses says what to do', async t => {
  const { gateway, open } = await build(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  gateway.refusal = { code: status.RESOURCE_EXHAUSTED, details: 'none left' }
  await assert.rejects(client.allocate(lease), { kind: 'exhausted', code: 'addresses_exhausted' })
  gateway.refusal = { code: status.INTERNAL, details: 'the store is away' }
  await assert.rejects(client.allocate(lease), { kind: 'unavailable', code: 'addresses_unavailable', message: /INTERNAL/ })
  await assert.rejects(client.release(lease), { code: 'addresses_unavailable' })
})

test('a token that was replaced is used by the next call, and one that is wrong is told', async t => {
  const { gateway, tokenFile, open } = await build(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  gateway.token = 'another'
  await assert.rejects(client.allocate(lease), { code: 'addresses_unavailable', message: /BERTH_GATEWAY_TOKEN_FILE/ })
  writeFileSync(tokenFile, 'another')
  assert.equal((await client.allocate(lease)).ipv4, '10.64.3.10')
  chmodSync(tokenFile, 0o644)
  await assert.rejects(client.allocate(lease), { code: 'addresses_unavailable', message: /BERTH_GATEWAY_TOKEN_FILE/ })
})

test('a gateway that is away is told, and found when it is back', async t => {
  const { gateway, open } = await build(t)
  const port = await gateway.listen()
  gateway.close()
  const client = await open(`127.0.0.1:${port}`)
  await assert.rejects(client.allocate(lease), { kind: 'unavailable', code: 'addresses_unavailable', message: /does not answer/ })
  await gateway.listen(`127.0.0.1:${port}`)
  assert.ok(await pollUntil(() => client.allocate(lease).then(() => true, () => false), 20_000))
})

test('a gateway that never answers is given up, and asked again', async t => {
  const { gateway, open } = await build(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  gateway.isSilent = true
  await assert.rejects(client.allocate(lease), { code: 'addresses_unavailable', message: /does not answer/ })
  gateway.isSilent = false
  assert.equal((await client.allocate(lease)).ipv4, '10.64.3.10')
})

test('with authorities, only a gateway that they have signed is told the token', async t => {
  const { dir, gateway, open } = await build(t)
  const certificate = (name: string) => {
    const [key, cert] = [join(dir, `${name}.key`), join(dir, `${name}.pem`)]
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-out', cert, '-days', '2',
      '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'], { stdio: 'ignore' })
    return { key, cert }
  }
  const [own, other] = [certificate('own'), certificate('other')]
  const port = await gateway.listen('127.0.0.1:0', ServerCredentials.createSsl(null, [{ private_key: readFileSync(own.key), cert_chain: readFileSync(own.cert) }]))
  await assert.rejects((await open(`localhost:${port}`, other.cert)).allocate(lease), { code: 'addresses_unavailable' })
  await assert.rejects((await open(`localhost:${port}`)).allocate(lease), { code: 'addresses_unavailable' })
  assert.deepEqual(gateway.calls, [])
  assert.equal((await (await open(`localhost:${port}`, own.cert)).allocate(lease)).ipv4, '10.64.3.10')
})

test('files that cannot be used are told at the start', async t => {
  const { dir, tokenFile, open } = await build(t)
  const target = '127.0.0.1:1'
  await assert.rejects(open(target, join(dir, 'absent')), { code: 'invalid_config', message: /BERTH_GATEWAY_CA_FILE: it cannot be read \(ENOENT\)/ })
  writeFileSync(join(dir, 'nonsense'), 'no certificate')
  await assert.rejects(open(target, join(dir, 'nonsense')), { code: 'invalid_config', message: /BERTH_GATEWAY_CA_FILE/ })
  writeFileSync(tokenFile, 'two\nlines')
  await assert.rejects(open(target), { code: 'invalid_config', message: /BERTH_GATEWAY_TOKEN_FILE: it holds no token/ })
  chmodSync(tokenFile, 0o640)
  await assert.rejects(open(target), { code: 'invalid_config', message: /chmod 600/ })
})
