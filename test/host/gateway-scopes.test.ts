/** Every route of openapi/gateway.json with a token of every scope, on a real gateway: what is not in the table below fails. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { json } from 'node:stream/consumers'
import { test } from 'node:test'
import { RedisServer } from '../support/redis-server.ts'
import { TestGateway } from '../support/test-gateway.ts'

type Scope = 'admin' | 'client' | 'read' | 'worker'

const everybody = ['nobody', 'worker', 'read', 'client', 'admin']
const whoReads = ['read', 'client', 'admin']
const whoChanges = ['client', 'admin']
const onlyAdmins = ['admin']

/** By operation. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  getHealth: everybody,
  getReadiness: everybody,
  getMetrics: whoReads,
  getGateway: whoReads,
  createTask: whoChanges,
  listTasks: whoReads,
  getTask: whoReads,
  deleteTask: whoChanges,
  cancelTask: whoChanges,
  retryTask: whoChanges,
  waitTask: whoReads,
  readTaskLog: whoReads,
  tailTaskLog: whoReads,
  getQueue: whoReads,
  createFleetSandbox: whoChanges,
  listFleetSandboxes: whoReads,
  createFleetTicket: whoChanges,
  listWorkers: whoReads,
  getWorker: whoReads,
  removeWorker: onlyAdmins,
  drainWorker: onlyAdmins,
  undrainWorker: onlyAdmins,
  listPools: whoReads,
  createFleetToken: onlyAdmins,
  listFleetTokens: onlyAdmins,
  revokeFleetToken: onlyAdmins,
}

/** What a host has, by way of the gateway; not in the document. */
const proxied: ReadonlyArray<[method: string, path: string, allowed: readonly string[]]> = [
  ['GET', '/v1/sandboxes/sbx_00000000000000000000', whoReads],
  ['DELETE', '/v1/sandboxes/sbx_00000000000000000000', whoChanges],
  ['POST', '/v1/sandboxes/sbx_00000000000000000000/execs', whoChanges],
  ['PUT', '/v1/sandboxes/sbx_00000000000000000000/files/content?path=/a', whoChanges],
  ['POST', '/v1/sandboxes/sbx_00000000000000000000/tokens', onlyAdmins],
  ['GET', '/v1/workers/hst_none/api/v1/host', whoReads],
  ['GET', '/v1/workers/hst_none/api/v1/sandboxes', whoReads],
  ['POST', '/v1/workers/hst_none/api/v1/tasks', whoChanges],
  ['POST', '/v1/workers/hst_none/api/v1/host/drain', onlyAdmins],
  ['POST', '/v1/workers/hst_none/api/v1/tokens', onlyAdmins],
  ['POST', '/v1/workers/hst_none/api/v1/sandboxes/x/tokens', onlyAdmins],
  ['POST', '/v1/workers/hst_none/api/v1/sandboxes/x/%74okens', onlyAdmins],
]

interface Operation { operationId: string, method: string, path: string }

const ids: Readonly<Record<string, string>> = { tasks: 'tsk_00000000000000000000', workers: 'hst_none', tokens: 'tok_00000000000000000000' }

async function operations (): Promise<Operation[]> {
  const { paths } = JSON.parse(await readFile(new URL('../../openapi/gateway.json', import.meta.url), 'utf8')) as { paths: Record<string, Record<string, { operationId: string }>> }
  return Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, { operationId }]) =>
    ({ operationId, method: method.toUpperCase(), path: path.replace('{id}', ids[path.split('/')[2]!] ?? 'none') })))
}

async function startGateway (t: Parameters<typeof RedisServer.start>[0]): Promise<TestGateway> {
  const { url } = await RedisServer.start(t)
  const gateway = await TestGateway.start(t, { redisUrl: url })
  await gateway.ready()
  return gateway
}

/** Of a path that answers upgrades alone: what it says in the place of one. */
async function askForUpgrade ({ url }: TestGateway, path: string, { authorization = '' }: Record<string, string>): Promise<{ status: number, body: { code?: string } }> {
  const upgrade = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==', 'sec-websocket-version': '13' }
  const asked = httpRequest(url + path, { headers: { ...upgrade, ...authorization !== '' && { authorization } } }).end()
  const [response] = await once(asked, 'response') as [IncomingMessage]
  return { status: response.statusCode!, body: await json(response) as { code?: string } }
}

test('every route is for the scopes that it is for, and for no other', { timeout: 60_000 }, async t => {
  const gateway = await startGateway(t)
  const routes = await operations()
  assert.deepEqual(routes.map(({ operationId }) => operationId).filter(id => !allowed[id]), [], 'say above whose these are')
  const scopes: Scope[] = ['worker', 'read', 'client', 'admin']
  const tokens = new Map<string, Record<string, string>>([['nobody', { authorization: '' }]])
  for (const scope of scopes) tokens.set(scope, { authorization: `Bearer ${await gateway.makeToken(scope)}` })
  const asked: Array<[name: string, method: string, path: string, allowed: readonly string[]]> = [
    ...routes.map(({ operationId, method, path }): [string, string, string, readonly string[]] => [operationId, method, path, allowed[operationId]!]),
    ...proxied.map(([method, path, who]): [string, string, string, readonly string[]] => [`${method} ${path}`, method, path, who]),
  ]
  for (const [name, method, path, who] of asked) {
    for (const [scope, headers] of tokens) {
      const body = method === 'POST' || method === 'PUT' ? { nonsense: true } : undefined
      const { status, body: answer } = path.endsWith('/ws') ? await askForUpgrade(gateway, path, headers) : await gateway.request<{ code?: string }>(method, path, body, headers)
      const refusal = status === 401 ? 'unknown' : status === 403 ? 'refused' : 'let in'
      const expected = who.includes(scope) ? 'let in' : scope === 'nobody' ? 'unknown' : 'refused'
      assert.equal(refusal, expected, `${name} with ${scope}: ${status} ${JSON.stringify(answer)}`)
      if (refusal === 'refused') assert.equal(answer.code, 'scope_insufficient', name)
      if (refusal === 'let in') assert.ok(status < 500 || name === 'createFleetSandbox', `${name} with ${scope}: ${status} ${JSON.stringify(answer)}`)
    }
  }
  assert.equal(gateway.errors(), '')
})

test('for a token of one pool nothing of another is there, whichever way it comes', { timeout: 60_000 }, async t => {
  const gateway = await startGateway(t)
  const headersOf = async (scope: Scope) => ({ authorization: `Bearer ${await gateway.makeToken(scope, ['blue'])}` })
  const [client, read] = [await headersOf('client'), await headersOf('read')]
  const key = { 'idempotency-key': 'the-same' }
  const theirs = await gateway.request<{ id: string }>('POST', '/v1/tasks', { image: 'a/b', pool: 'red', env: { SECRET: 'of red' } }, key)
  assert.equal(theirs.status, 201, theirs.text)
  const mine = await gateway.request<{ id: string }>('POST', '/v1/tasks', { image: 'a/b', pool: 'blue' }, { ...client, ...key })
  assert.equal(mine.status, 201, 'keys of others are others')
  const { id } = theirs.body
  for (const [method, path] of [['GET', ''], ['DELETE', ''], ['POST', '/cancel'], ['POST', '/retry'], ['GET', '/wait?timeoutMs=1'], ['GET', '/logs']] as const) {
    const answer = await gateway.request<{ code: string }>(method, `/v1/tasks/${id}${path}`, undefined, client)
    assert.deepEqual([answer.status, answer.body.code], [404, 'task_not_found'], `${method} ${path}: ${answer.text}`)
  }
  for (const headers of [client, read]) {
    assert.equal((await gateway.request('POST', '/v1/tasks', { image: 'a/b', pool: 'red' }, headers)).status, 403)
    for (const path of ['/v1/tasks', '/v1/tasks?pool=red', '/v1/tasks?cursor=9999999999999999', '/v1/queue', '/v1/pools', '/v1/workers?pool=red', '/v1/sandboxes', '/metrics']) {
      const { status, text } = await gateway.request('GET', path, undefined, headers)
      assert.ok(status === 200 || status === 403, `${path}: ${text}`)
      assert.doesNotMatch(text, /red"|of red/, path)
    }
  }
  assert.equal((await gateway.request('GET', '/metrics', undefined, read)).status, 403)
  assert.equal((await gateway.request('POST', '/v1/tokens', { name: 'a', scope: 'admin', pools: ['blue'] })).status, 400)
  assert.equal((await gateway.request('GET', '/v1/sandboxes?pool=red', undefined, client)).status, 403)
  assert.equal((await gateway.request('POST', '/v1/sandboxes', { image: 'a/b', pool: 'red' }, client)).status, 403)
  assert.equal((await gateway.request<{ status: string }>('GET', `/v1/tasks/${id}`)).body.status, 'pending')
})
