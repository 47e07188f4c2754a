import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parsePreviewHost, previewPlace, splitTicket } from '../../../src/routes/preview-place.ts'
import { buildPreviewRig, mirror, previewDomain, type PreviewRig } from '../../support/preview-rig.ts'

test('who may see a port, by token and method', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve(mirror)
  const short = rig.tokens.create({ name: 'short', scope: 'sandbox', sandboxId: rig.sandbox.id })
  rig.tokens.revoke(short.id)
  const rows: Array<[who: string, headers: Record<string, string>, read: number, write: number, code?: string]> = [
    ['admin', rig.asAdmin, 200, 200],
    ['the sandbox', rig.asSandbox, 200, 200],
    ['read', rig.asReader, 200, 403, 'scope_insufficient'],
    ['another sandbox', rig.asOther, 403, 403, 'scope_insufficient'],
    ['nobody', {}, 401, 401, 'token_missing'],
    ['a revoked token', { authorization: `Bearer ${short.token}` }, 401, 401, 'token_invalid'],
    ['a foreign token', { authorization: 'Bearer of-the-app' }, 401, 401, 'token_invalid'],
    ['a password', { authorization: 'Basic YTpi' }, 401, 401, 'token_invalid'],
  ]
  for (const [who, headers, read, write, code] of rows) {
    for (const host of [undefined, rig.hostOf(port)]) {
      const path = host === undefined ? rig.pathTo(port) : '/'
      const given = { ...headers, ...(host === undefined ? {} : { host }) }
      assert.equal((await rig.ask(path, { headers: given })).status, read, `${who} GET ${host}`)
      assert.equal((await rig.ask(path, { method: 'HEAD', headers: given })).status, read, `${who} HEAD`)
      const written = await rig.ask(path, { method: 'POST', headers: given })
      assert.equal(written.status, write, `${who} POST ${host}`)
      if (code !== undefined) assert.equal(JSON.parse(written.text).code, code, who)
    }
  }
})

test('what the token of a sandbox may do with the API', async t => {
  const rig = await buildPreviewRig(t)
  const own = `/v1/sandboxes/${rig.sandbox.id}`
  const rows: Array<[method: string, path: string, isAllowed: boolean]> = [
    ['GET', own, true],
    ['GET', `${own}/execs`, true],
    ['POST', `${own}/execs`, true],
    ['POST', `${own}/execs/exe_${'0'.repeat(20)}/signal`, true],
    ['GET', `${own}/terminals`, true],
    ['POST', `${own}/terminals`, true],
    ['PATCH', `${own}/terminals/trm_${'0'.repeat(20)}`, true],
    ['DELETE', `${own}/terminals/trm_${'0'.repeat(20)}`, true],
    ['GET', `${own}/logs`, true],
    ['GET', `${own}/ports`, true],
    ['GET', `${own}/network/decisions`, true],
    ['POST', '/v1/tickets', true],
    ['GET', '/v1/nothing', true],
    ['PUT', `${own}/network`, false],
    ['PATCH', own, false],
    ['DELETE', own, false],
    ['POST', `${own}/stop`, false],
    ['POST', `${own}/start`, false],
    ['POST', `${own}/pause`, false],
    ['GET', `${own}/tokens`, false],
    ['POST', `${own}/tokens`, false],
    ['DELETE', `${own}/tokens/tok_${'0'.repeat(20)}`, false],
    ['GET', '/v1/sandboxes', false],
    ['POST', '/v1/sandboxes', false],
    ['GET', `/v1/sandboxes/${rig.other.id}`, false],
    ['POST', `/v1/sandboxes/${rig.other.id}/execs`, false],
    ['POST', `/v1/sandboxes/${rig.other.id}/terminals`, false],
    ['GET', `/v1/sandboxes/${rig.other.id}/terminals`, false],
    ['GET', '/v1/events', false],
    ['GET', '/v1/host', false],
    ['GET', '/v1/images', false],
    ['GET', '/metrics', false],
  ]
  for (const [method, url, isAllowed] of rows) {
    const { status } = await rig.ask(url, { method, headers: rig.asSandbox })
    assert.equal(status !== 403, isAllowed, `${method} ${url}: ${status}`)
  }
})

test('tokens and tickets over REST: told once, kept by no idempotency key, refused for what is not there', async t => {
  const rig = await buildPreviewRig(t)
  const url = `/v1/sandboxes/${rig.sandbox.id}/tokens`
  const post = (path: string, body: object, headers: Record<string, string> = rig.asAdmin) =>
    rig.ask(path, { method: 'POST', headers: { ...headers, 'content-type': 'application/json', 'idempotency-key': 'k' }, body: JSON.stringify(body) })
  const made = [await post(url, { name: 'agent', expiresInMs: 60_000 }), await post(url, { name: 'agent', expiresInMs: 60_000 })]
  assert.deepEqual(made.map(({ status }) => status), [201, 201])
  const [first, second] = made.map(({ text }) => JSON.parse(text))
  assert.notEqual(first.token, second.token)
  assert.equal(rig.tokens.verify(first.token)?.sandboxId, rig.sandbox.id)
  const listed = await rig.ask(url, { headers: rig.asReader })
  assert.doesNotMatch(listed.text, /berth_/)
  assert.deepEqual(JSON.parse(listed.text).items.map(({ name, expiresAt }: { name: string, expiresAt?: string }) => [name, expiresAt]), [['own', undefined], ['agent', first.expiresAt], ['agent', second.expiresAt]])
  assert.equal((await rig.ask(`${url}/${first.id}`, { method: 'DELETE', headers: rig.asAdmin })).status, 204)
  assert.equal(rig.tokens.verify(first.token), undefined)
  assert.equal((await rig.ask(`${url}/${first.id}`, { method: 'DELETE', headers: rig.asAdmin })).status, 404)

  const ticket = JSON.parse((await post('/v1/tickets', { sandboxId: rig.sandbox.id, scope: 'preview', port: 3000 }, rig.asSandbox)).text)
  assert.equal(ticket.path, `${rig.pathTo(3000)}?berth_ticket=${ticket.ticket}`)
  assert.equal((await post('/v1/tickets', { sandboxId: rig.other.id, scope: 'preview' }, rig.asSandbox)).status, 403)
  assert.equal((await post('/v1/tickets', { sandboxId: rig.sandbox.id, scope: 'preview' }, rig.asReader)).status, 403)
  assert.equal((await post('/v1/tickets', { sandboxId: rig.sandbox.id, scope: 'other' })).status, 400)
  rig.other.deletedAt = new Date().toISOString()
  assert.equal((await post('/v1/tickets', { sandboxId: rig.other.id, scope: 'preview' })).status, 404)
  assert.equal((await post(`/v1/sandboxes/${rig.other.id}/tokens`, {})).status, 404)
})

/** Comes with a ticket of a token of the sandbox; answers the cookie that is given for it. */
async function enter (rig: PreviewRig, port: number, host?: string): Promise<{ cookie: string, setCookie: string, location: string, tokenId: string }> {
  const { id: tokenId } = rig.tokens.create({ name: 'x', scope: 'sandbox', sandboxId: rig.sandbox.id })
  const { ticket } = rig.tickets.create({ scope: 'preview', sandboxId: rig.sandbox.id, port, tokenId })
  const path = host === undefined ? rig.pathTo(port, '/a?') : '/a?'
  const { status, headers } = await rig.ask(`${path}x=1&berth_ticket=${ticket}&y=2`, { headers: host === undefined ? {} : { host } })
  assert.equal(status, 302)
  const setCookie = headers['set-cookie']![0]!
  return { cookie: setCookie.split(';')[0]!, setCookie, location: headers.location!, tokenId }
}

test('a ticket becomes a session: a cookie for this port, and the same address without the ticket', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve(mirror)
  const { cookie, setCookie, location, tokenId } = await enter(rig, port)
  assert.equal(location, rig.pathTo(port, '/a?x=1&y=2'))
  assert.match(setCookie, new RegExp(`^berth_preview=[^;]+; Path=${rig.pathTo(port)}; Max-Age=43200; HttpOnly; SameSite=Lax$`))
  const get = (path: string, headers: Record<string, string> = { cookie }) => rig.ask(path, { headers })
  const seen = await get(location)
  assert.equal(seen.status, 200)
  assert.doesNotMatch(seen.text, /berth_preview/)
  assert.equal((await get(location, { cookie: `berth_preview=forged; ${cookie}` })).status, 200)
  assert.equal((await get(rig.pathTo(port + 1))).status, 401)
  assert.equal((await get(`/v1/sandboxes/${rig.other.id}/ports/${port}/`)).status, 401)
  assert.equal((await get(`/v1/sandboxes/${rig.sandbox.id}`)).status, 401, 'the API knows no cookies')
  const again = await get(`${location}&berth_ticket=used`)
  assert.deepEqual([again.status, again.headers.location, again.headers['set-cookie']], [307, location, undefined])
  assert.equal((await get(`${location}&berth_ticket=used`, {})).status, 401)
  assert.equal((await rig.ask(location, { headers: { cookie, authorization: 'Bearer of-the-app' } })).status, 200)
  rig.tokens.revoke(tokenId)
  assert.equal((await get(location)).status, 401)
})

test('the way on from a ticket never leads to another host', async t => {
  const rig = await buildPreviewRig(t)
  for (const path of ['//evil.test/', '/\\evil.test/']) {
    const { ticket } = rig.tickets.create({ scope: 'preview', sandboxId: rig.sandbox.id, tokenId: 'tok_x' })
    const { headers, status } = await rig.ask(`${path}?berth_ticket=${ticket}`, { headers: { host: rig.hostOf(80) } })
    assert.equal(status, 302)
    assert.equal(new URL(headers.location!, 'http://here.test').host, 'here.test', headers.location)
  }
})

test('a session is of no use to pages of other sandboxes', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve(mirror)
  const host = rig.hostOf(port)
  const own = `http://${host}`
  const sibling = `http://3001-${rig.sandbox.id.replace('_', '-')}.${previewDomain}:${rig.port}`
  const stranger = `http://3000-${rig.other.id.replace('_', '-')}.${previewDomain}:${rig.port}`
  const { cookie: hostCookie } = await enter(rig, port, host)
  const { cookie: pathCookie } = await enter(rig, port)
  const path = rig.pathTo(port)
  const rows: Array<[what: string, path: string, method: string, headers: Record<string, string>, status: number]> = [
    ['own page posts', '/', 'POST', { host, cookie: hostCookie, origin: own, 'sec-fetch-site': 'same-origin' }, 200],
    ['another port of the sandbox posts', '/', 'POST', { host, cookie: hostCookie, origin: sibling, 'sec-fetch-site': 'same-site' }, 200],
    ['another sandbox posts', '/', 'POST', { host, cookie: hostCookie, origin: stranger, 'sec-fetch-site': 'same-site' }, 403],
    ['another sandbox reads', '/', 'GET', { host, cookie: hostCookie, origin: stranger, 'sec-fetch-site': 'same-site', 'sec-fetch-mode': 'cors' }, 403],
    ['another sandbox loads a script', '/', 'GET', { host, cookie: hostCookie, 'sec-fetch-site': 'same-site', 'sec-fetch-mode': 'no-cors' }, 403],
    ['a link elsewhere leads here', '/', 'GET', { host, cookie: hostCookie, 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }, 200],
    ['no browser at all posts', '/', 'POST', { host, cookie: hostCookie }, 200],
    ['any page under a path posts', path, 'POST', { cookie: pathCookie, origin: 'null' }, 403],
    ['a page of the API posts', path, 'POST', { cookie: pathCookie, origin: `http://127.0.0.1:${rig.port}` }, 403],
    ['a page under a path loads its image', path, 'GET', { cookie: pathCookie, 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' }, 200],
    ['a stranger upgrades', '/', 'GET', { host, cookie: hostCookie, origin: stranger, connection: 'close, upgrade', upgrade: 'websocket' }, 403],
    ['a page under a path upgrades', path, 'GET', { cookie: pathCookie, origin: 'null', connection: 'close, upgrade', upgrade: 'websocket' }, 403],
    ['own page upgrades', '/', 'GET', { host, cookie: hostCookie, origin: own, connection: 'close, upgrade', upgrade: 'websocket' }, 200],
    ['the cookie of a path at the host', '/', 'GET', { host, cookie: pathCookie }, 200],
  ]
  for (const [what, asked, method, headers, status] of rows) assert.equal((await rig.ask(asked, { method, headers })).status, status, what)
})

test('under a path, what speaks for the whole origin is taken out of answers, and pages get an origin of their own', async t => {
  const rig = await buildPreviewRig(t)
  const dropped = ['set-cookie', 'service-worker-allowed', 'clear-site-data', 'strict-transport-security', 'alt-svc', 'www-authenticate', 'nel', 'report-to', 'accept-ch']
  const { port } = await rig.serve((_request, response) => {
    for (const name of dropped) response.setHeader(name, 'a=b')
    response.setHeader('set-cookie', ['a=b; Domain=preview.test; Path=/', 'berth_preview=mine', 'c=d;domain=.test;Secure'])
    response.setHeader('content-security-policy', "default-src 'self'")
    response.setHeader('x-own', 'kept')
    response.end()
  })
  const under = await rig.ask(rig.pathTo(port), { headers: rig.asAdmin })
  for (const name of dropped) assert.equal(under.headers[name], undefined, name)
  assert.equal(under.headers['x-own'], 'kept')
  assert.equal(under.headers['content-security-policy'], "default-src 'self', sandbox allow-scripts allow-forms allow-popups allow-downloads allow-modals")
  const named = await rig.ask('/', { headers: { ...rig.asAdmin, host: rig.hostOf(port) } })
  assert.deepEqual(named.headers['set-cookie'], ['a=b; Path=/', 'c=d;Secure'])
  assert.equal(named.headers['content-security-policy'], "default-src 'self'")
  assert.equal(named.headers['strict-transport-security'], 'a=b')
  assert.equal(named.headers['clear-site-data'], undefined)
})

test('redirections stay inside the preview, those that lead elsewhere are left alone', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve((request, response) => response.writeHead(302, { location: decodeURIComponent(request.url!.slice(2)) }).end())
  const prefix = rig.pathTo(port, '')
  const api = `127.0.0.1:${rig.port}`
  const host = rig.hostOf(port)
  const rows: Array<[location: string, under: string, named: string]> = [
    ['/login?a=b', `${prefix}/login?a=b`, '/login?a=b'],
    [`${prefix}/login`, `${prefix}/login`, `${prefix}/login`],
    ['next', 'next', 'next'],
    ['//elsewhere.test/', '//elsewhere.test/', '//elsewhere.test/'],
    ['https://elsewhere.test/x', 'https://elsewhere.test/x', 'https://elsewhere.test/x'],
    [`http://${api}/x`, `http://${api}${prefix}/x`, `http://${api}/x`],
    [`http://localhost:${port}/x?y#z`, `${prefix}/x?y#z`, '/x?y#z'],
    ['http://localhost:1/x', 'http://localhost:1/x', 'http://localhost:1/x'],
    [`http://${host}/x`, `http://${host}/x`, `http://${host}/x`],
  ]
  for (const [location, under, named] of rows) {
    const path = `/?${encodeURIComponent(location)}`
    assert.equal((await rig.ask(prefix + path, { headers: rig.asAdmin })).headers.location, under, location)
    assert.equal((await rig.ask(path, { headers: { ...rig.asAdmin, host } })).headers.location, named, location)
  }
})

test('by host name a program has all paths, its own cookies, and Authorization that is not Berth\'s', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve(mirror)
  const host = rig.hostOf(port)
  const { cookie, setCookie, location } = await enter(rig, port, host)
  assert.equal(location, '/a?x=1&y=2')
  assert.match(setCookie, /; Path=\/; /)
  const seen = JSON.parse((await rig.ask('/v1/sandboxes', { headers: { host: host.toUpperCase(), cookie: `a=1; ${cookie}; b=2`, authorization: 'Bearer of-the-app' } })).text)
  assert.equal(seen.url, '/v1/sandboxes')
  assert.equal(seen.headers.cookie, 'a=1; b=2')
  assert.equal(seen.headers.authorization, 'Bearer of-the-app')
  assert.equal(seen.headers.host, host.toUpperCase())
  assert.equal(seen.headers['x-forwarded-prefix'], undefined)
  assert.equal((await rig.ask('/v1/sandboxes', { headers: { ...rig.asAdmin, host: `api.${previewDomain}` } })).status, 200, 'other names are the API\'s')
})

test('host names of ports', () => {
  const id = `sbx_${'0v'.repeat(10)}`
  const rows: Array<[host: string, found: number | undefined]> = [
    [`3000-${id}.preview.test`, 3000],
    [`3000-${id.replace('_', '-')}.preview.test:8080`, 3000],
    [`3000-${id.toUpperCase()}.PREVIEW.test.`, 3000],
    [`70000-${id}.preview.test`, 70_000],
    [`${id}.preview.test`, undefined],
    [`3000-${id}x.preview.test`, undefined],
    [`a.3000-${id}.preview.test`, undefined],
    [`3000-${id}.other.test`, undefined],
    [`3000-${id}.xpreview.test`, undefined],
    ['preview.test', undefined],
    ['', undefined],
  ]
  for (const [host, port] of rows) assert.deepEqual(parsePreviewHost(host, 'preview.test'), port === undefined ? undefined : { sandboxId: id, port }, host)
  assert.ok(`65535-${id}`.length <= 63)
  const place = (url: string, host = '') => previewPlace({ url, headers: { host } }, 'preview.test')
  assert.equal(place('http://any/x?y', `80-${id}.preview.test`)?.path, '/x?y')
  assert.equal(place('*', `80-${id}.preview.test`)?.path, '*')
  assert.equal(place(`/v1/sandboxes/${id}/ports/80/x`)?.path, '/x')
  assert.equal(place(`/v1/sandboxes/${id}/ports`), undefined)
  assert.equal(place(`/v1/sandboxes/${id}/ports/80x/`), undefined)
})

test('only the ticket is taken out of a query', () => {
  assert.deepEqual(splitTicket('/a?x=1&berth_ticket=T&y=%20'), { path: '/a?x=1&y=%20', ticket: 'T' })
  assert.deepEqual(splitTicket('/a?berth_ticket=T'), { path: '/a', ticket: 'T' })
  assert.deepEqual(splitTicket('/berth_ticket=T?not_berth_ticket=1'), { path: '/berth_ticket=T?not_berth_ticket=1' })
  assert.deepEqual(splitTicket('/a?berth_ticket'), { path: '/a', ticket: '' })
})
