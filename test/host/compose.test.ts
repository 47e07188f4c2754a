/** The fleet in containers: what can be proven of it without an engine. */
import assert from 'node:assert/strict'
import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { readConfig } from '../../src/config.ts'
import { readGatewayConfig } from '../../src/gateway-config.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { readTokenFile } from '../../src/services/tokens/token-file.ts'
import { freePort } from '../support/free-port.ts'
import { readYamlDocuments } from '../support/yaml-documents.ts'

const repo = fileURLToPath(new URL('../../', import.meta.url))
const program = (name: string): string => join(repo, 'deploy/container', name)

interface Service {
  environment?: Record<string, string>
  depends_on?: Record<string, { condition: string }>
  healthcheck: { test: string[] | string }
  command: string[]
  volumes?: string[]
  ports?: string[]
  restart: string
}

interface Compose { services: Record<string, Service>, volumes: Record<string, unknown> }

const compose = readYamlDocuments<Compose>(readFileSync(join(repo, 'docker-compose.yml'), 'utf8'))[0]!

function makeDir (t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'berth-compose-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

test('docker-compose finds nothing wrong with the file', () => {
  const { status, stderr } = spawnSync('docker-compose', ['-f', join(repo, 'docker-compose.yml'), 'config', '-q'], { encoding: 'utf8', timeout: 60_000 })
  assert.equal(stderr, '')
  assert.equal(status, 0)
})

test('services wait for those that they need, are asked whether they live, and are reached from this machine alone', () => {
  const { services, volumes } = compose
  for (const [name, { depends_on: needs = {}, healthcheck, restart, ports = [], volumes: mounts = [] }] of Object.entries(services)) {
    for (const [needed, { condition }] of Object.entries(needs)) {
      assert.equal(condition, services[needed]?.restart === 'no' ? 'service_completed_successfully' : 'service_healthy', `${name} → ${needed}`)
    }
    assert.ok(restart === 'no' || healthcheck.test.length > 0, name)
    for (const port of ports) assert.match(port, /^127\.0\.0\.1:/)
    for (const mount of mounts) assert.ok(mount.split(':')[0]! in volumes, mount)
  }
})

test('the settings of gateway and host are settings, and name files that are made', t => {
  const dir = makeDir(t)
  const made = secretsOf(dir)
  for (const [name, read] of [['gateway', readGatewayConfig], ['host', readConfig]] as const) {
    const asked = new Set<string>()
    const environment = compose.services[name]!.environment!
    read({}, new Proxy(environment, { get: (target, key) => { asked.add(String(key)); return target[String(key)] } }))
    assert.deepEqual(Object.keys(environment).filter(key => key.startsWith('BERTH_') && !asked.has(key)), [])
    for (const [key, path] of Object.entries(environment)) {
      // The token of the host is made by the gateway.
      if (/^BERTH_.*_FILE$/.test(key) && !path.endsWith('/worker.token')) assert.ok(made.includes(`${name}/${path.replace('/run/secrets/berth/', '')}`), path)
    }
  }
})

/** Runs make-secrets twice, and answers what is there. */
function secretsOf (dir: string): string[] {
  for (const name of ['gateway', 'redis', 'host']) mkdirSync(join(dir, name))
  const files = ['gateway/admin.token', 'gateway/redis.password', 'redis/password', 'host/redis.password']
  const contents = () => files.map(name => readFileSync(join(dir, name), 'utf8'))
  const run = () => assert.equal(spawnSync(program('make-secrets'), [dir], { stdio: 'inherit' }).status, 0)
  run()
  const first = contents()
  run()
  assert.deepEqual(contents(), first)
  return files
}

test('secrets are made once, differ from each other, and are read by nobody but their user', t => {
  const dir = makeDir(t)
  const files = secretsOf(dir)
  const [token, gatewayPassword, password, hostPassword] = files.map(name => readFileSync(join(dir, name), 'utf8'))
  assert.equal(readTokenFile(join(dir, 'gateway/admin.token')), token?.trim())
  assert.ok(password && password.length > 40 && !token?.includes(password.trim()))
  assert.deepEqual([gatewayPassword, hostPassword], [password, password])
  for (const name of files) assert.equal(statSync(join(dir, name)).mode & 0o777, 0o600, name)
  assert.deepEqual(['gateway', 'gateway/admin.token', 'redis', 'host'].map(name => statSync(join(dir, name)).uid), [10001, 10001, 0, 0])
})

test('Valkey starts with the given command, wants its password, and evicts nothing', async t => {
  const dir = makeDir(t)
  secretsOf(dir)
  mkdirSync(join(dir, 'data'))
  const port = await freePort()
  // Debian's Redis speaks the same; the entry point of the image changes the user, and no more.
  for (const [name, text] of [['docker-entrypoint.sh', `#!/bin/sh\nshift\nexec redis-server "$@" --port ${port} --bind 127.0.0.1`], ['valkey-cli', `#!/bin/sh\nexec redis-cli -p ${port} "$@"`]] as const) {
    writeFileSync(join(dir, name), text)
    chmodSync(join(dir, name), 0o755)
  }
  const { command, healthcheck } = compose.services['valkey']!
  const here = (text: string): string => text.replaceAll('$$', '$').replaceAll('/run/secrets/redis/', join(dir, 'redis/')).replace('dir /data', `dir ${dir}/data`)
  const env = { ...process.env, PATH: `${dir}:${process.env['PATH']}` }
  const server = spawn('sh', ['-c', here(command[0]!)], { env, stdio: ['ignore', 'ignore', 'inherit'] })
  t.after(async () => {
    const ended = once(server, 'exit')
    if (server.exitCode === null && server.kill()) await ended
  })
  assert.equal(healthcheck.test[0], 'CMD-SHELL')
  const isHealthy = async () => spawnSync('sh', ['-c', here(healthcheck.test[1]!)], { env }).status === 0
  assert.ok(await pollUntil(isHealthy, 20_000), 'it does not become healthy')
  const cli = (...args: string[]) => spawnSync('redis-cli', ['-p', String(port), ...args], { encoding: 'utf8', env: { ...env, REDISCLI_AUTH: args[0] === 'ping' ? '' : readFileSync(join(dir, 'redis/password'), 'utf8').trim() } }).stdout
  assert.match(cli('ping'), /NOAUTH/)
  assert.equal(cli('config', 'get', 'maxmemory-policy'), 'maxmemory-policy\nnoeviction\n')
  assert.equal(cli('config', 'get', 'appendfsync'), 'appendfsync\nalways\n')
})

test('a host is enrolled once, with a token of scope worker', async t => {
  const dir = makeDir(t)
  const asked: Array<{ path: string | undefined, authorization: string | undefined, body: unknown }> = []
  const given = `berth_${'w'.repeat(43)}`
  const server = createServer(async (request, response) => {
    const chunks = await request.toArray() as Buffer[]
    asked.push({ path: request.url, authorization: request.headers.authorization, body: JSON.parse(Buffer.concat(chunks).toString()) })
    const isFirst = asked.length === 1
    response.writeHead(isFirst ? 503 : 201, { 'content-type': 'application/json' })
    response.end(JSON.stringify(isFirst ? { code: 'redis_unavailable' } : { id: 'tok_1', name: 'host', scope: 'worker', token: given }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => { server.close() })
  const admin = join(dir, 'admin.token')
  const file = join(dir, 'worker.token')
  writeFileSync(admin, `berth_${'a'.repeat(43)}\n`)
  const enrol = () => promisify(execFile)(program('enrol'), [`http://127.0.0.1:${(server.address() as AddressInfo).port}`, admin, file])
  await assert.rejects(enrol())
  await enrol()
  await enrol()
  assert.equal(asked.length, 2)
  assert.deepEqual(asked[1], { path: '/v1/tokens', authorization: `Bearer berth_${'a'.repeat(43)}`, body: { name: 'host', scope: 'worker' } })
  assert.equal(readFileSync(file, 'utf8'), `${given}\n`)
  assert.equal(statSync(file).mode & 0o777, 0o600)
})
