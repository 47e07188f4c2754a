import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import type { NetworkRequest } from '../../../src/schemas/network.ts'
import { asAdmin, asReader, buildTestApp, makeDecision, makeSandbox } from './fake-services.ts'

async function build (t: TestContext) {
  const parts = await buildTestApp(t)
  const made = makeSandbox()
  parts.sandboxes.set(made.id, { ...made, network: { ...made.network, publish: [{ port: 80, hostPort: 8080, protocol: 'tcp' }, { port: 5432, hostPort: 9999, protocol: 'udp' }] } })
  const { id } = made
  const get = async (path: string, headers: Record<string, string> = asAdmin) => parts.app.inject({ url: `/v1/sandboxes/${id}/${path}`, headers })
  const put = async (body: object, headers = asAdmin) => parts.app.inject({ method: 'PUT', url: `/v1/sandboxes/${id}/network`, headers, payload: body })
  return { ...parts, id, get, put }
}

const nobody = `sbx_${'z'.repeat(20)}`

test('a sandbox is created with the network that was asked for, and shows it', async t => {
  const { app, calls } = await build(t)
  const network: NetworkRequest = {
    egress: { allow: ['api.example.com', '10.1.2.3:5432'], deny: ['evil.example.com'] }, publish: [{ port: 80 }], bandwidth: { uploadBitsPerSecond: 10_000_000 },
  }
  const answer = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: asAdmin, payload: { image: 'berth/base', network } })
  assert.equal(answer.statusCode, 201, answer.body)
  assert.deepEqual((calls[0]!.args[0] as { network: object }).network, { ...network, publish: [{ port: 80, protocol: 'tcp' }], gateway: false })
  assert.deepEqual(answer.json().network, { ipv4: '10.200.16.7', ipv6: 'fd00:a1b2::1007', egress: 'none', publish: [], gateway: false })
})

test('the network is shown with what has passed, where there is one', async t => {
  const { get, services } = await build(t)
  const shown = (await get('network')).json()
  assert.equal(shown.ipv4, '10.200.16.7')
  assert.deepEqual(shown.traffic, { receivedBytes: 1000, sentBytes: 200 })
  assert.deepEqual(shown.publish[0], { port: 80, hostPort: 8080, protocol: 'tcp' })
  services.network.traffic = async () => undefined
  assert.equal('traffic' in (await get('network', asReader)).json(), false)
})

for (const egress of ['none', 'internet', { allow: ['*.example.com'] }, { allow: ['internet', '10.1.0.0/16'], deny: ['x.example.com'] }] as const) {
  test(`the rules ${JSON.stringify(egress)} are set and shown`, async t => {
    const { put, calls, id } = await build(t)
    const answer = await put({ egress })
    assert.equal(answer.statusCode, 200, answer.body)
    assert.deepEqual(answer.json(), { egress, publish: [], gateway: false })
    assert.deepEqual(calls, [{ name: 'setNetwork', args: [id, { egress, gateway: false }] }])
  })
}

test('an empty wish is one too, and no wish is none', async t => {
  const { put, calls, id, app } = await build(t)
  assert.equal((await put({})).statusCode, 200)
  assert.deepEqual(calls[0]!.args, [id, { gateway: false }])
  const answer = await app.inject({ method: 'PUT', url: `/v1/sandboxes/${id}/network`, headers: asAdmin })
  assert.equal(answer.json().code, 'body_missing')
})

test('who may only read may not change it, and rules that cannot be put in force are told', async t => {
  const { put, services } = await build(t)
  assert.equal((await put({}, asReader)).statusCode, 403)
  services.sandboxes.setNetwork = async () => { throw new BerthError('invalid_argument', 'invalid_egress', 'egress.allow[0]: …') }
  const answer = await put({ egress: { allow: ['x y'] } })
  assert.deepEqual([answer.statusCode, answer.json().code], [400, 'invalid_egress'])
})

for (const [what, body, field, says] of [
  ['a word that is none', { egress: 'all' }, 'egress', /^egress must be one of none, internet, or an object \(EgressRules\)$/],
  ['a number', { egress: 5 }, 'egress', /^egress must be one of none/],
  ['rules without allow', { egress: { deny: [] } }, 'egress.allow', /^egress.allow is required$/],
  ['a mistyped rule', { egress: { allow: [], denny: [] } }, 'egress.denny', /in egress; did you mean deny\?$/],
  ['an entry that is no text', { egress: { allow: [5] } }, 'egress.allow[0]', /^egress.allow\[0\] must be a string$/],
  ['too many entries', { egress: { allow: Array(513).fill('a.b') } }, 'egress.allow', /at most 512 items/],
  ['a port that is none', { publish: [{ port: 70_000 }] }, 'publish[0].port', /at most 65535/],
  ['an unknown protocol', { publish: [{ port: 1, protocol: 'sctp' }] }, 'publish[0].protocol', /one of tcp, udp/],
  ['too little bandwidth', { bandwidth: { uploadBitsPerSecond: 1 } }, 'bandwidth.uploadBitsPerSecond', /at least 64000/],
  ['an unknown field', { ingress: [] }, 'ingress', /^unknown field "ingress"/],
] as const) {
  test(`${what} is refused where it is`, async t => {
    const { put, app, calls } = await build(t)
    const answer = (await put(body)).json()
    assert.deepEqual([answer.kind, answer.details.field], ['invalid_argument', field])
    assert.match(answer.message, says)
    const made = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: asAdmin, payload: { image: 'berth/base', network: body } })
    assert.equal(made.json().details.field, `network.${field}`)
    assert.deepEqual(calls, [])
  })
}

test('decisions come as a page that says what is gone and where to read on', async t => {
  const { get, calls, id } = await build(t)
  const whole = (await get('network/decisions')).json()
  assert.deepEqual(whole, { items: [makeDecision(id, 4)], gap: { type: 'gap', seq: 3, message: 'gone' } })
  const part = (await get('network/decisions?cursor=3&limit=1&action=denied&kind=dns', asReader)).json()
  assert.deepEqual(part, { items: [makeDecision(id, 4)], nextCursor: '4' })
  assert.deepEqual(calls.map(({ args }) => args[0]), [{ sandboxId: id, limit: 100 }, { sandboxId: id, after: 3, limit: 1, action: 'denied', kind: 'dns' }])
})

test('decisions are followed from here on, or from the last one seen', async t => {
  const { get, calls, id } = await build(t)
  const followed = await get('network/decisions?follow=true&action=denied')
  assert.equal(followed.headers['content-type'], 'application/x-ndjson; charset=utf-8')
  assert.deepEqual(JSON.parse(followed.body), makeDecision(id, 10))
  const sse = await get('network/decisions?cursor=0', { ...asAdmin, accept: 'text/event-stream', 'last-event-id': '6' })
  assert.match(sse.body, /^id: 10\nevent: decision\ndata: \{"seq":10,/)
  assert.deepEqual(calls.map(({ args }) => { const { signal: _, ...filter } = args[0] as Record<string, unknown>; return filter }), [
    { sandboxId: id, after: 9, action: 'denied' }, { sandboxId: id, after: 6 },
  ])
})

test('a gap in a stream is a record, and an event of its own', async t => {
  const { get, services } = await build(t)
  services.decisions.follow = async function * () { yield { type: 'gap' as const, seq: 3, message: 'gone' } }
  assert.deepEqual(JSON.parse((await get('network/decisions?format=ndjson')).body), { type: 'gap', seq: 3, message: 'gone' })
  assert.match((await get('network/decisions?format=sse')).body, /^id: 3\nevent: gap\n/)
})

test('ports that listen inside are shown with what leads to them', async t => {
  const { get, id } = await build(t)
  assert.deepEqual((await get('ports', asReader)).json(), {
    items: [
      { port: 80, protocol: 'tcp', address: '0.0.0.0', isLoopback: false, hostPort: 8080, path: `/v1/sandboxes/${id}/ports/80/` },
      { port: 5432, protocol: 'tcp', address: '127.0.0.1', isLoopback: true, path: `/v1/sandboxes/${id}/ports/5432/` },
    ],
  })
})

test('what belongs to no sandbox is not found, before anything is done', async t => {
  const { app, calls } = await build(t)
  for (const path of ['network', 'network/decisions', 'network/decisions?follow=true', 'ports']) {
    const answer = await app.inject({ url: `/v1/sandboxes/${nobody}/${path}`, headers: asAdmin })
    assert.deepEqual([answer.statusCode, answer.json().code], [404, 'sandbox_not_found'], path)
  }
  assert.equal((await app.inject({ url: `/v1/sandboxes/${nobody}/network/decisions?cursor=x`, headers: asAdmin })).statusCode, 400)
  assert.deepEqual(calls, [])
})
