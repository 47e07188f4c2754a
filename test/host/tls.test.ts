/** The API over TLS: requests, long bodies, terminals, and certificates of clients. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Agent, fetch } from 'undici'
import { WebSocket } from 'ws'
import type { Terminal } from '../../src/schemas/terminal.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

test('the API speaks TLS, and asks for certificates of clients where it is told to', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-tls-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  for (const name of ['server', 'client']) {
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', `/CN=${name}`,
      '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', join(dir, `${name}.key`), '-out', join(dir, `${name}.pem`)], { stdio: 'ignore' })
    chmodSync(join(dir, `${name}.key`), 0o600)
  }
  const read = (name: string) => readFileSync(join(dir, name))
  const daemon = await TestDaemon.start(t, {
    // Its own requests go by the unix socket.
    isRemote: true,
    env: { BERTH_TLS_CERT_FILE: join(dir, 'server.pem'), BERTH_TLS_KEY_FILE: join(dir, 'server.key'), BERTH_TLS_CLIENT_CA_FILE: join(dir, 'client.pem') },
  })
  assert.match(daemon.url, /^https:/)
  const trusted = { ca: read('server.pem'), cert: read('client.pem'), key: read('client.key') }
  const agent = new Agent({ connect: trusted })
  t.after(() => agent.close())
  const headers = { authorization: `Bearer ${daemon.token}` }
  const { id } = await daemon.create()

  const stranger = new Agent({ connect: { ca: trusted.ca } })
  t.after(() => stranger.close())
  await assert.rejects(fetch(`${daemon.url}/v1/host`, { dispatcher: stranger, headers }), 'without a certificate')
  assert.equal((await fetch(`${daemon.url}/v1/host`, { dispatcher: agent })).status, 401, 'a certificate does not stand for a token')

  const body = randomBytes(9 * 1024 ** 2)
  const address = `${daemon.url}/v1/sandboxes/${id}/files?path=/workspace/long`
  assert.equal((await fetch(address, { dispatcher: agent, method: 'PUT', headers, body })).status, 201)
  const answer = await fetch(address, { dispatcher: agent, headers })
  assert.equal(sha256(new Uint8Array(await answer.arrayBuffer())), sha256(body))

  const { body: terminal } = await daemon.request<Terminal>('POST', `/v1/sandboxes/${id}/terminals`, { argv: ['sh', '-c', 'echo over $((40 + 2)) TLS'] })
  const socket = new WebSocket(`${daemon.url.replace(/^http/, 'ws')}/v1/sandboxes/${id}/terminals/${terminal.id}/attach?since=0`, { ...trusted, headers })
  let text = ''
  socket.on('message', (data: Buffer, isBinary) => { if (isBinary) text += data.toString() })
  await new Promise((resolve, reject) => { socket.once('close', resolve); socket.once('error', reject) })
  assert.match(text, /over 42 TLS/)
})
