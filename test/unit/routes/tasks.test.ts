import assert from 'node:assert/strict'
import { test } from 'node:test'
import { asAdmin, asReader, buildTestApp } from './fake-services.ts'
import { makeTask, queueStatus } from './fake-tasks.ts'

const image = 'berth/base'

test('a task is queued with 201, its path, and the key of its token', async t => {
  const { app, calls } = await buildTestApp(t)
  const payload = { image, entrypoint: ['make'], priority: 5 }
  const answer = await app.inject({ method: 'POST', url: '/v1/tasks', headers: { ...asAdmin, 'idempotency-key': 'k1' }, payload })
  assert.equal(answer.statusCode, 201, answer.body)
  assert.equal(answer.headers.location, `/v1/tasks/${answer.json().id}`)
  assert.equal(answer.json().priority, 5)
  const [call] = calls
  assert.equal(call?.name, 'createTask')
  assert.partialDeepStrictEqual(call.args[0], payload)
  assert.deepEqual(call.args[1], { idempotencyKey: 'tok_admin/k1' })
})

test('a batch is queued as one call, with its key, and answered in its order', async t => {
  const { app, calls } = await buildTestApp(t)
  const names = Array.from({ length: 1000 }, (_, n) => `berth/base:${n}`)
  const send = () => app.inject({ method: 'POST', url: '/v1/tasks', headers: { ...asAdmin, 'idempotency-key': 'b' }, payload: { tasks: names.map(name => ({ image: name })) } })
  const answer = await send()
  assert.equal(answer.statusCode, 201)
  assert.deepEqual(answer.json().items.map((task: { image: string }) => task.image), names)
  assert.equal(answer.headers.location, undefined)
  assert.deepEqual(calls.map(({ name, args }) => [name, (args[0] as unknown[]).length, args[1]]), [['createBatch', 1000, { idempotencyKey: 'tok_admin/b' }]])
  const again = await send()
  assert.equal(again.headers['idempotency-replayed'], 'true')
  assert.equal(again.body, answer.body)
  assert.equal(calls.length, 1)
})

test('defaults of a task reach the service alone and in a batch, and nothing else is added', async t => {
  const { app, calls } = await buildTestApp(t)
  for (const payload of [{ image }, { tasks: [{ image }] }]) {
    const answer = await app.inject({ method: 'POST', url: '/v1/tasks', headers: asAdmin, payload })
    assert.equal(answer.statusCode, 201, answer.body)
  }
  assert.deepEqual((calls[1]?.args[0] as unknown[])[0], calls[0]?.args[0])
  assert.partialDeepStrictEqual(calls[0]?.args[0], { image, priority: 0, maxAttempts: 1 })
})

const secret = 'whsec_' + 'a'.repeat(32)
const other = 'whsec_' + 'b'.repeat(32)
const hook = { type: 'webhook', url: 'https://hooks.example.com/' }

for (const [form, wrap] of [['a task', (task: object) => task], ['a batch', (task: object) => ({ tasks: [{ image }, task] })]] as const) {
  test(`nothing of the secrets in the outputs of ${form} is kept with its key, nor answered`, async t => {
    const { app, services } = await buildTestApp(t)
    const seen: string[] = []
    const { begin } = services.idempotency
    services.idempotency.begin = request => {
      seen.push(request.bodyHash)
      return begin(request)
    }
    const send = (key: string, outputs: object[]) => app.inject({ method: 'POST', url: '/v1/tasks', headers: { ...asAdmin, 'idempotency-key': key }, payload: wrap({ image, outputs }) })
    const first = await send('a', [{ type: 'console' }, { ...hook, secret }])
    assert.equal(first.statusCode, 201, first.body)
    assert.ok(!first.body.includes(secret))
    assert.equal((await send('b', [{ type: 'console' }, { ...hook, secret: other }])).statusCode, 201)
    assert.equal((await send('c', [{ type: 'console' }, { ...hook, url: 'https://other.example.com/', secret }])).statusCode, 201)
    assert.equal(seen[0], seen[1], 'the hash says nothing of the secret')
    assert.notEqual(seen[0], seen[2], 'and all of the rest')
  })
}

test('the filters of a list reach the service in its own words', async t => {
  const { app, calls } = await buildTestApp(t)
  const url = '/v1/tasks?status=pending,running&status=failed&label=team=blue&label=job=a=b&pool=gpu&since=2026-03-01T10:30:00%2B01:00&until=2026-03-02T00:00:00Z&deadLetter=false&limit=5&cursor=c'
  const answer = await app.inject({ url, headers: asAdmin })
  assert.equal(answer.statusCode, 200, answer.body)
  assert.deepEqual(calls[0], {
    name: 'listTasks',
    args: [{
      status: ['pending', 'running', 'failed'], labels: { team: 'blue', job: 'a=b' }, pool: 'gpu', since: '2026-03-01T09:30:00.000Z', until: '2026-03-02T00:00:00.000Z', deadLetter: false, limit: 5, cursor: 'c',
    }],
  })
  await app.inject({ url: '/v1/tasks', headers: asAdmin })
  assert.deepEqual(calls[1]?.args, [{ limit: 100 }])
})

test('each action reaches its method', async t => {
  const { app, calls } = await buildTestApp(t)
  const { id } = (await app.inject({ method: 'POST', url: '/v1/tasks', headers: asAdmin, payload: { image } })).json()
  calls.length = 0
  for (const [method, path, name] of [['POST', '/cancel', 'cancelTask'], ['POST', '/retry', 'retryTask'], ['GET', '/wait?until=running&timeoutMs=50', 'waitTask'], ['GET', '/wait', 'waitTask']] as const) {
    const answer = await app.inject({ method, url: `/v1/tasks/${id}${path}`, headers: asAdmin })
    assert.equal(answer.statusCode, 200, answer.body)
    assert.equal(answer.json().id, id)
    assert.equal(calls.at(-1)?.name, name)
  }
  const [, , running, ended] = calls.map(({ args }) => args[1] as { timeoutMs: number, until: string })
  assert.deepEqual([running?.timeoutMs, running?.until, ended?.timeoutMs, ended?.until], [50, 'running', 24 * 3_600_000, 'ended'])
  assert.equal((await app.inject({ method: 'DELETE', url: `/v1/tasks/${id}`, headers: asAdmin })).statusCode, 204)
  assert.equal((await app.inject({ url: `/v1/tasks/${id}`, headers: asAdmin })).json().code, 'task_not_found')
  assert.deepEqual((await app.inject({ url: '/v1/queue', headers: asAdmin })).json(), queueStatus)
})

test('a single task is answered whole', async t => {
  const { app, services } = await buildTestApp(t)
  const at = '2026-03-01T09:30:00.000Z'
  const end = { reason: 'exited' as const, at, exitCode: 3 }
  const whole = makeTask({}, {
    status: 'failed',
    end,
    attempts: [{ number: 1, status: 'failed', sandboxId: `sbx_${'a'.repeat(20)}`, logCursor: '0:0', claimedAt: at, startedAt: at, endedAt: at, end, timings: [{ step: 'image', durationMs: 2 }] }],
    isDeadLetter: true,
    outputs: [{ type: 'webhook', url: 'https://hooks.example.com/', isSigned: true }],
    outputStates: [{ type: 'webhook', status: 'retrying', entries: 3, cursor: '0:90', failingSince: at, message: 'HTTP 500' }],
    network: { egress: { allow: ['api.example.com'] }, publish: [{ port: 80 }] },
  })
  services.tasks.get = async () => whole
  assert.deepEqual((await app.inject({ url: `/v1/tasks/${whole.id}`, headers: asAdmin })).json(), whole)
})

test('a read token sees tasks and changes none; a token of a sandbox sees none', async t => {
  const { app, services, calls } = await buildTestApp(t)
  const id = `tsk_${'a'.repeat(20)}`
  const { verify } = services.tokens
  services.tokens.verify = token => token === 'inside' ? { id: 'tok_in', scope: 'sandbox', sandboxId: `sbx_${'a'.repeat(20)}` } : verify(token)
  const reads = [['GET', '/v1/tasks', 200], ['GET', `/v1/tasks/${id}`, 404], ['GET', `/v1/tasks/${id}/wait`, 404], ['GET', '/v1/queue', 200]] as const
  const writes = [['POST', '/v1/tasks'], ['POST', `/v1/tasks/${id}/cancel`], ['POST', `/v1/tasks/${id}/retry`], ['DELETE', `/v1/tasks/${id}`]] as const
  for (const [method, url, status] of reads) assert.equal((await app.inject({ method, url, headers: asReader })).statusCode, status, url)
  calls.length = 0
  const refused = [...writes.map(([method, url]) => ({ method, url, headers: asReader as Record<string, string> })), ...[...reads, ...writes].map(([method, url]) => ({ method, url, headers: { authorization: 'Bearer inside' } }))]
  for (const request of refused) {
    const answer = await app.inject({ ...request, ...(request.method === 'POST' && { payload: { image } }) })
    assert.deepEqual([answer.statusCode, answer.json().code], [403, 'scope_insufficient'], `${request.method} ${request.url}`)
  }
  assert.deepEqual(calls, [])
})

test('events of one task are asked for by its id', async t => {
  const { app, calls } = await buildTestApp(t)
  const taskId = `tsk_${'a'.repeat(20)}`
  assert.equal((await app.inject({ url: `/v1/events?taskId=${taskId}`, headers: asAdmin })).statusCode, 200)
  assert.equal((calls[0]?.args[0] as { taskId?: string }).taskId, taskId)
})

test('the document shows both forms of a create, and an Idempotency-Key with it', async t => {
  const { app } = await buildTestApp(t)
  const { post } = (await app.inject({ url: '/openapi.json' })).json().paths['/v1/tasks']
  assert.deepEqual(post.requestBody.content['application/json'].schema, { oneOf: [{ $ref: '#/components/schemas/TaskCreate' }, { $ref: '#/components/schemas/TaskBatch' }] })
  assert.deepEqual(post.responses['201'].content['application/json'].schema, { oneOf: [{ $ref: '#/components/schemas/Task' }, { $ref: '#/components/schemas/TaskBatchResult' }] })
  assert.ok(post.parameters.some(({ name }: { name: string }) => name === 'Idempotency-Key'))
})

interface Row {
  what: string
  method?: 'GET' | 'POST'
  url?: string
  body?: object
  status?: number
  code: string
  field?: string
  says: RegExp
}

const goodTasks = Array.from({ length: 17 }, () => ({ image }))

const rows: Row[] = [
  { what: 'no image', body: {}, code: 'missing_field', field: 'image', says: /^image is required$/ },
  { what: 'an unknown field', body: { image, prio: 1 }, code: 'unknown_field', field: 'prio', says: /^unknown field "prio"; did you mean priority\?/ },
  { what: 'a field of sandboxes only', body: { image, start: true }, code: 'unknown_field', field: 'start', says: /^unknown field "start"/ },
  { what: 'a priority out of range', body: { image, priority: 101 }, code: 'invalid_field', field: 'priority', says: /^priority must be at most 100$/ },
  { what: 'a pool that is no name', body: { image, pool: 'A b' }, code: 'invalid_field', field: 'pool', says: /^pool must be at most 63 of/ },
  { what: 'an output of an unknown type', body: { image, outputs: [{ type: 'console' }, { type: 'tape' }] }, code: 'invalid_field', field: 'outputs[1].type', says: /^outputs\[1\].type must be one of console, file, s2, webhook, fleet$/ },
  { what: 'a mistyped field of an output', body: { image, outputs: [{ type: 'file', nam: 'x' }] }, code: 'unknown_field', field: 'outputs[0].nam', says: /"nam" in outputs\[0\]; did you mean name\?/ },
  { what: 'a list', body: [], code: 'invalid_field', says: /^the body must be an object$/ },
  { what: 'a batch with a task without image', body: { tasks: [...goodTasks, {}] }, code: 'missing_field', field: 'tasks[17].image', says: /^tasks\[17\].image is required$/ },
  { what: 'a batch with a wrong image', body: { tasks: [...goodTasks, { image: 7 }, { image: 8 }] }, code: 'invalid_field', field: 'tasks[17].image', says: /^tasks\[17\].image must be a string$/ },
  { what: 'a batch with an unknown field in a task', body: { tasks: [...goodTasks, { image, entryPoint: ['sh'] }] }, code: 'unknown_field', field: 'tasks[17].entryPoint', says: /^unknown field "entryPoint" in tasks\[17\]; did you mean entrypoint\?/ },
  { what: 'a batch with too little memory in a task', body: { tasks: [{ image, resources: { memoryBytes: 1 } }] }, code: 'invalid_field', field: 'tasks[0].resources.memoryBytes', says: /^tasks\[0\].resources.memoryBytes must be at least/ },
  { what: 'a batch with another field beside it', body: { tasks: goodTasks, image }, code: 'unknown_field', field: 'image', says: /^unknown field "image"; known are tasks$/ },
  { what: 'an empty batch', body: { tasks: [] }, code: 'invalid_field', field: 'tasks', says: /^tasks must not be empty$/ },
  { what: 'a batch of 1001', body: { tasks: Array.from({ length: 1001 }, () => ({ image })) }, code: 'invalid_field', field: 'tasks', says: /^tasks must have at most 1000 items$/ },
  { what: 'a batch that is no list', body: { tasks: { image } }, code: 'invalid_field', field: 'tasks', says: /^tasks must be an array$/ },
  { what: 'since without a time', method: 'GET', url: '/v1/tasks?since=2026-03-01', code: 'invalid_parameter', field: 'since', says: /^since must be a time like 2026-03-01T09:30:00Z/ },
  { what: 'until with a bare +', method: 'GET', url: '/v1/tasks?until=2026-03-01T09:30:00+01:00', code: 'invalid_parameter', field: 'until', says: /%2B/ },
  { what: 'a leap second', method: 'GET', url: '/v1/tasks?since=2016-12-31T23:59:60Z', code: 'invalid_parameter', field: 'since', says: /^since is no time that is known here/ },
  { what: 'an unknown status', method: 'GET', url: '/v1/tasks?status=pending,done', code: 'invalid_parameter', field: 'status[1]', says: /^status\[1\] must be one of pending, scheduled/ },
  { what: 'a label without value', method: 'GET', url: '/v1/tasks?label=a', code: 'invalid_parameter', field: 'label[0]', says: /name=value/ },
  { what: 'a label with two values', method: 'GET', url: '/v1/tasks?label=a=1&label=a=2', code: 'invalid_parameter', field: 'label', says: /two values/ },
  { what: 'a pool in a list that is no name', method: 'GET', url: '/v1/tasks?pool=A', code: 'invalid_parameter', field: 'pool', says: /at most 63 of/ },
  { what: 'a wait until something else', method: 'GET', url: `/v1/tasks/tsk_${'a'.repeat(20)}/wait?until=stopped`, code: 'invalid_parameter', field: 'until', says: /must be one of ended, running/ },
  { what: 'the id of a sandbox', method: 'GET', url: `/v1/tasks/sbx_${'a'.repeat(20)}`, status: 404, code: 'task_not_found', says: /^there is no task "sbx_a+"$/ },
  { what: 'an event of no task', method: 'GET', url: '/v1/events?taskId=x', code: 'invalid_parameter', field: 'taskId', says: /taskId/ },
]

test('bad requests about tasks are refused with a code and a message, and change nothing', async t => {
  const { app, calls } = await buildTestApp(t)
  for (const row of rows) {
    await t.test(`${row.what} is ${row.code}`, async () => {
      const answer = await app.inject({ method: row.method ?? 'POST', url: row.url ?? '/v1/tasks', headers: asAdmin, ...(row.body === undefined ? {} : { payload: row.body }) })
      const body = answer.json()
      assert.equal(answer.statusCode, row.status ?? 400, answer.body)
      assert.equal(body.code, row.code, answer.body)
      assert.match(body.message, row.says)
      if (row.field !== undefined) assert.equal(body.details?.field, row.field)
      assert.ok(answer.body.length < 2000, 'a short answer')
      assert.deepEqual(calls, [])
    })
  }
})
