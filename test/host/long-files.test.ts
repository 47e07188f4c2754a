/** Files that are long enough for their bytes to pass through the kernel alone. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Agent, request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http'
import { join } from 'node:path'
import { test } from 'node:test'
import { bytesOf, FileClient } from '../support/file-client.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const MiB = 1024 ** 2
const path = '/workspace/long'
const hashOf = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

test('long files', { timeout: 120_000 }, async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ resources: { diskBytes: 64 * MiB } })
  const files = new FileClient(daemon, id)
  const content = randomBytes(24 * MiB + 4321)
  const names = async () => (await daemon.exec(id, ['ls', '-A', '/workspace'])).stdout

  const doors: Array<[string, RequestOptions]> = [
    ['TCP', { host: '127.0.0.1', port: new URL(daemon.url).port, headers: { authorization: `Bearer ${daemon.token}` } }],
    ['the unix socket', { socketPath: join(daemon.runDir, 'berth.sock') }],
  ]
  for (const [door, options] of doors) {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.after(() => agent.destroy())
    const ask = async (method: string, asked: string, headers: Record<string, string> = {}, body?: Buffer) => {
      const request = httpRequest({ ...options, agent, method, path: asked, headers: { ...options.headers as Record<string, string>, ...headers } })
      if (headers['expect'] !== undefined) {
        request.flushHeaders()
        await once(request, 'continue')
      }
      const answered = once(request, 'response') as Promise<[IncomingMessage]>
      request.end(body)
      const [response] = await answered
      const port = response.socket.localPort
      return { response, bytes: await bytesOf(response as AsyncIterable<Buffer>), port }
    }

    await t.test(`go in by ${door}, with leave and without, and come out in whole and in part, on a connection that serves on`, async () => {
      for (const headers of [{}, { expect: '100-continue' }] as Array<Record<string, string>>) {
        const sent = await ask('PUT', files.url('', { path }), { 'content-length': String(content.length), ...headers }, content)
        assert.ok([200, 201].includes(sent.response.statusCode ?? 0), sent.bytes.toString())
        assert.equal(sent.response.headers.connection, 'close')
      }
      const whole = await ask('GET', files.url('', { path }))
      assert.equal(whole.response.statusCode, 200)
      assert.equal(whole.response.headers['content-length'], String(content.length))
      assert.equal(hashOf(whole.bytes), hashOf(content))
      const part = await ask('GET', files.url('', { path }), { range: `bytes=1000-${9 * MiB}` })
      assert.equal(part.response.statusCode, 206)
      assert.equal(part.port, whole.port)
      assert.equal(hashOf(part.bytes), hashOf(content.subarray(1000, 9 * MiB + 1)))
      assert.equal((await ask('GET', '/healthz')).port, whole.port)
    })
  }

  await t.test('that find no room are refused while they come, and what was there stays', async () => {
    const request = files.open('PUT', '', { path: '/workspace/more' }, { 'content-length': String(30 * MiB) })
    const answered = once(request, 'response') as Promise<[IncomingMessage]>
    request.write(content.subarray(0, 20 * MiB))
    // What --size found room for is taken meanwhile.
    await daemon.exec(id, ['sh', '-c', 'head -c 40000000 /dev/zero > /workspace/fill; true'])
    request.write(content.subarray(0, 10 * MiB))
    const [response] = await answered
    assert.equal(response.statusCode, 429)
    assert.equal((JSON.parse((await bytesOf(response as AsyncIterable<Buffer>)).toString()) as { code: string }).code, 'no_space')
    request.destroy()
    await daemon.exec(id, ['rm', '-f', '/workspace/fill'])
    assert.equal(await names(), 'long\n')
  })

  await t.test('whose client goes away leave nothing, and free their place', async () => {
    for (let round = 0; round < 40; round++) {
      const request = files.open('GET', '', { path }).end()
      const [response] = await once(request, 'response') as [IncomingMessage]
      response.on('error', () => {})
      await once(response, 'readable')
      request.destroy()
    }
    const request = files.open('PUT', '', { path }, { 'content-length': String(20 * MiB) })
    request.write(content.subarray(0, 12 * MiB), () => request.destroy())
    await once(request, 'close').catch(() => {})
    let found = ''
    for (let look = 0; look < 100 && (found = await names()) !== 'long\n'; look++) await new Promise(resolve => setTimeout(resolve, 50))
    assert.equal(found, 'long\n')
    assert.equal((await files.stat(path)).body.sizeBytes, content.length)
  })

  await t.test('break off with their sandbox', async () => {
    const [down, up] = [files.open('GET', '', { path }).end(), files.open('PUT', '', { path: '/workspace/up' }, { 'content-length': String(20 * MiB) })]
    up.write(content.subarray(0, 5 * MiB))
    const upEnded = Promise.race([once(up, 'response').then(([response]) => (response as IncomingMessage).statusCode), once(up, 'close').then(() => 'closed')])
    const [response] = await once(down, 'response') as [IncomingMessage]
    response.pause()
    assert.equal((await daemon.request('POST', `/v1/sandboxes/${id}/stop`, { force: true })).status, 200)
    const bytes = await bytesOf(response as AsyncIterable<Buffer>).then(all => all.length, () => 0)
    assert.ok(bytes < content.length)
    assert.ok([409, 503, 'closed'].includes(await upEnded ?? 0), String(await upEnded))
  })
})
