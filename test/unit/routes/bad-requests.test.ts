import assert from 'node:assert/strict'
import { test } from 'node:test'
import { asAdmin, buildTestApp, makeSandbox } from './fake-services.ts'

const json = { ...asAdmin, 'content-type': 'application/json' }
const id = `sbx_${'a'.repeat(20)}`
const image = 'berth/base'

interface Row {
  what: string
  method?: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE'
  url?: string
  body?: unknown
  payload?: string | Buffer
  headers?: Record<string, string>
  status?: number
  code: string
  field?: string
  says: RegExp
}

const rows: Row[] = [
  { what: 'an unknown field', body: { image, memory: 1 }, code: 'unknown_field', field: 'memory', says: /^unknown field "memory"; known are image, entrypoint, env/ },
  { what: 'a mistyped field', body: { image, entryPoint: ['sh'] }, code: 'unknown_field', field: 'entryPoint', says: /"entryPoint"; did you mean entrypoint\?/ },
  { what: 'a mistyped inner field', body: { image, resources: { memory_bytes: 1 } }, code: 'unknown_field', field: 'resources.memory_bytes', says: /in resources; did you mean memoryBytes\?/ },
  { what: 'the beginning of a field', body: { image, resources: { memory: 1 } }, code: 'unknown_field', field: 'resources.memory', says: /did you mean memoryBytes\?/ },
  { what: 'an absurdly long field name', body: { image, ['x'.repeat(100_000)]: 1 }, code: 'unknown_field', says: /^unknown field "x{64}…"; known/ },
  { what: 'a missing field', body: {}, code: 'missing_field', field: 'image', says: /^image is required$/ },
  { what: 'a wrong type', body: { image: 7 }, code: 'invalid_field', field: 'image', says: /^image must be a string$/ },
  { what: 'null', body: { image: null }, code: 'invalid_field', field: 'image', says: /^image must be a string$/ },
  { what: 'a number as text', body: { image, timeoutMs: '5' }, code: 'invalid_field', field: 'timeoutMs', says: /^timeoutMs must be an integer$/ },
  { what: 'a fraction', body: { image, timeoutMs: 1.5 }, code: 'invalid_field', field: 'timeoutMs', says: /must be an integer/ },
  { what: 'too little memory', body: { image, resources: { memoryBytes: 1 } }, code: 'invalid_field', field: 'resources.memoryBytes', says: /^resources.memoryBytes must be at least 67108864$/ },
  { what: 'an absurd number of processes', body: { image, resources: { pids: 1e9 } }, code: 'invalid_field', field: 'resources.pids', says: /must be at most 32768/ },
  { what: 'an empty entrypoint', body: { image, entrypoint: [] }, code: 'invalid_field', field: 'entrypoint', says: /^entrypoint must not be empty$/ },
  { what: 'a NUL byte in an argument', body: { image, entrypoint: ['sh', 'a\0b'] }, code: 'invalid_field', field: 'entrypoint[1]', says: /^entrypoint\[1\] must not contain NUL characters$/ },
  { what: 'a NUL byte in an environment value', body: { image, env: { A: 'a\0b' } }, code: 'invalid_field', field: 'env.A', says: /^env.A must not contain NUL/ },
  { what: 'a NUL byte in the image', body: { image: 'a\0b' }, code: 'invalid_field', field: 'image', says: /NUL/ },
  { what: 'a bad environment name', body: { image, env: { '1A': '' } }, code: 'invalid_field', field: 'env', says: /^env has the name "1A"; names have at most 255/ },
  { what: 'an environment of 1 MB', body: { image, env: Object.fromEntries(Array.from({ length: 16 }, (_, n) => [`V${n}`, 'x'.repeat(70_000)])) }, code: 'invalid_field', field: 'env', says: /^env must have at most 1048576 bytes in all$/ },
  { what: 'one huge environment value', body: { image, env: { A: 'x'.repeat(200_000) } }, code: 'invalid_field', field: 'env.A', says: /^env.A must have at most 131072 characters$/ },
  { what: '10k labels', body: { image, labels: Object.fromEntries(Array.from({ length: 10_000 }, (_, n) => [`l${n}`, ''])) }, code: 'invalid_field', field: 'labels', says: /^labels must have at most 64 entries$/ },
  { what: 'a relative working directory', body: { image, workingDir: 'tmp' }, code: 'invalid_field', field: 'workingDir', says: /^workingDir must be an absolute path/ },
  { what: 'a bad user', body: { image, user: '../x' }, code: 'invalid_field', field: 'user', says: /must be uid, uid:gid/ },
  { what: 'a bad host name', body: { image, hostname: 'UPPER' }, code: 'invalid_field', field: 'hostname', says: /must be a host name/ },
  { what: 'a list as body', body: [], code: 'invalid_field', says: /^the body must be an object$/ },
  { what: 'an empty body', code: 'body_missing', says: /^a body is needed/ },
  { what: 'an empty JSON body', payload: '', code: 'body_missing', says: /^a body is needed/ },
  { what: 'malformed JSON', payload: '{"image":', code: 'body_not_json', says: /not valid JSON/ },
  { what: 'a repeated key', payload: '{"image":"a","im\\u0061ge":"b"}', code: 'body_key_repeated', says: /"image" twice/ },
  { what: 'a __proto__ key', payload: '{"image":"a","__proto__":{"x":1}}', code: 'body_key_forbidden', says: /__proto__/ },
  { what: 'invalid UTF-8', payload: Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), code: 'body_not_utf8', says: /UTF-8/ },
  { what: 'half a surrogate pair', payload: '{"image":"\\ud800"}', code: 'body_not_unicode', says: /surrogate/ },
  { what: 'another content type', payload: 'image=a', headers: { 'content-type': 'application/x-www-form-urlencoded' }, status: 415, code: 'unsupported_content_type', says: /application\/json/ },
  { what: 'a body that is too large', payload: `{"image":"${'x'.repeat(70_000)}"}`, status: 413, code: 'body_too_large', says: /larger than 65536 bytes/ },
  { what: 'an unknown path', method: 'GET', url: '/v1/nothing', status: 404, code: 'route_not_found', says: /there is no GET "\/v1\/nothing"/ },
  { what: 'a wrong method', method: 'PUT', url: '/v1/sandboxes', status: 405, code: 'method_not_allowed', says: /only GET, HEAD, POST/ },
  { what: 'a path that is no URL', method: 'GET', url: '/v1/sandboxes/%ff', code: 'invalid_url', says: /not a valid URL path/ },
  { what: 'an id with ../', method: 'GET', url: '/v1/sandboxes/..%2f..%2fetc', status: 404, code: 'sandbox_not_found', says: /no sandbox "\.\.\/\.\.\/etc"/ },
  { what: 'a long id', method: 'GET', url: `/v1/sandboxes/${'x'.repeat(500)}`, status: 404, code: 'sandbox_not_found', says: /no sandbox "x{64}…"$/ },
  { what: 'an id that is not there', method: 'GET', url: `/v1/sandboxes/sbx_${'b'.repeat(20)}`, status: 404, code: 'sandbox_not_found', says: /there is no sandbox/ },
  { what: 'an exec id of the wrong kind', method: 'GET', url: `/v1/sandboxes/${id}/execs/${id}`, status: 404, code: 'exec_not_found', says: /no exec/ },
  { what: 'an unknown query parameter', method: 'GET', url: '/v1/sandboxes?limt=3', code: 'unknown_parameter', field: 'limt', says: /unknown query parameter "limt"; did you mean limit\?/ },
  { what: 'a limit of 0', method: 'GET', url: '/v1/sandboxes?limit=0', code: 'invalid_parameter', field: 'limit', says: /^limit must be at least 1$/ },
  { what: 'a limit that is no number', method: 'GET', url: '/v1/sandboxes?limit=ten', code: 'invalid_parameter', field: 'limit', says: /must be an integer/ },
  { what: 'a repeated limit', method: 'GET', url: '/v1/sandboxes?limit=1&limit=2', code: 'invalid_parameter', field: 'limit', says: /must be an integer/ },
  { what: 'an unknown status', method: 'GET', url: '/v1/sandboxes?status=running,dead', code: 'invalid_parameter', field: 'status[1]', says: /^status\[1\] must be one of pending, creating/ },
  { what: 'a label without value', method: 'GET', url: '/v1/sandboxes?label=a', code: 'invalid_parameter', field: 'label[0]', says: /must be name=value/ },
  { what: 'one label with two values', method: 'GET', url: '/v1/sandboxes?label=a=1&label=a=2', code: 'invalid_parameter', field: 'label', says: /two values/ },
  { what: 'force that is no truth value', method: 'DELETE', url: `/v1/sandboxes/${id}?force=maybe`, code: 'invalid_parameter', field: 'force', says: /must be a boolean/ },
  { what: 'a body where none is taken', method: 'DELETE', url: `/v1/sandboxes/${id}`, body: { force: true }, code: 'body_not_taken', says: /options go into the query/ },
  { what: 'an update of nothing', method: 'PATCH', url: `/v1/sandboxes/${id}`, body: {}, code: 'invalid_field', says: /^the body must name at least one field$/ },
  { what: 'an unknown signal', url: `/v1/sandboxes/${id}/execs/exe_${'a'.repeat(20)}/signal`, body: { signal: 'TERM' }, code: 'invalid_field', field: 'signal', says: /^signal must be one of SIGHUP, SIGINT/ },
  { what: 'an exec without argv', url: `/v1/sandboxes/${id}/execs`, body: { cmd: 'ls' }, code: 'missing_field', field: 'argv', says: /^argv is required$/ },
  { what: 'a detached exec to be streamed', url: `/v1/sandboxes/${id}/execs?format=sse`, body: { argv: ['a'], detach: true }, code: 'exec_not_streamable', field: 'format', says: /not streamed/ },
  { what: 'an Idempotency-Key on a stream', url: `/v1/sandboxes/${id}/execs?format=ndjson`, body: { argv: ['a'] }, headers: { 'idempotency-key': 'k' }, code: 'idempotency_key_on_stream', says: /no Idempotency-Key/ },
  { what: 'a bad Idempotency-Key', body: { image }, headers: { 'idempotency-key': 'a b' }, code: 'idempotency_key_invalid', says: /visible ASCII/ },
  { what: 'an event cursor that is no number', method: 'GET', url: '/v1/events?cursor=-1', code: 'invalid_parameter', field: 'cursor', says: /must be the seq of an event/ },
]

test('bad requests are refused with a code and a message, and change nothing', async t => {
  const large = await buildTestApp(t)
  const small = await buildTestApp(t, { limits: { bodyBytes: 64 * 1024 } })
  for (const row of rows) {
    // A small limit for the one row about it; the large environments are to reach their own rule.
    const { app, calls, sandboxes } = row.code === 'body_too_large' ? small : large
    await t.test(`${row.what} is ${row.code}`, async () => {
      sandboxes.set(id, { ...makeSandbox(), id })
      const payload = row.payload ?? (row.body === undefined ? undefined : JSON.stringify(row.body))
      const answer = await app.inject({
        method: row.method ?? 'POST',
        url: row.url ?? '/v1/sandboxes',
        headers: { ...(payload === undefined ? asAdmin : json), ...row.headers },
        payload,
      })
      const body = answer.json()
      assert.equal(answer.statusCode, row.status ?? 400, answer.body)
      assert.equal(body.code, row.code)
      assert.match(body.message, row.says)
      if (row.field !== undefined) assert.equal(body.details?.field, row.field)
      assert.ok(answer.body.length < 2000, 'a short answer')
      assert.equal(body.requestId, answer.headers['x-request-id'])
      assert.deepEqual(Object.keys(body).filter(key => !['code', 'kind', 'message', 'requestId', 'details'].includes(key)), [])
      assert.deepEqual(calls, [])
    })
  }
})
