/** Files of a sandbox over REST, on the real runtime: what goes in comes out, in whole, in part, as archives and as they change. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { answerTo, bytesOf, FileClient } from '../support/file-client.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const MiB = 1024 ** 2

test('files of a sandbox', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create()
  const files = new FileClient(daemon, id)
  const shell = async (script: string, user?: string) => await daemon.exec(id, ['sh', '-c', script], user === undefined ? {} : { user })

  await t.test('a file goes in, with what is above it, and comes out', async () => {
    const made = await files.put('/workspace/deep/er/a b.txt', 'first')
    assert.equal(made.status, 201, made.text)
    const { name, path, type, sizeBytes, mode, uid } = made.body
    assert.deepEqual({ name, path, type, sizeBytes, mode, uid }, { name: 'a b.txt', path: '/workspace/deep/er/a b.txt', type: 'file', sizeBytes: 5, mode: '0644', uid: 1000 })
    const replaced = await files.put('/workspace/deep/er/a b.txt', 'second', { mode: '0600' })
    assert.equal(replaced.status, 200)
    assert.equal(replaced.body.mode, '0600')
    const { status, text, headers } = await files.get('/workspace/deep/er/a b.txt')
    assert.equal(status, 200)
    assert.equal(text, 'second')
    assert.equal(headers.get('content-length'), '6')
    assert.equal(headers.get('content-type'), 'application/octet-stream')
    assert.equal(headers.get('content-disposition'), "attachment; filename*=UTF-8''a%20b.txt")
    assert.equal(headers.get('x-content-type-options'), 'nosniff')
    assert.match(headers.get('content-security-policy') ?? '', /sandbox/)
    assert.equal(headers.get('x-berth-file-mode'), '0600')
    assert.equal(headers.get('x-berth-file-owner'), '1000:1000')
    assert.equal((await shell('cat "/workspace/deep/er/a b.txt"')).stdout, 'second')
  })

  await t.test('a range is answered, and what is known is not sent again', async () => {
    await files.put('/workspace/range', '0123456789')
    const ranged = async (range: string, headers: Record<string, string> = {}) => {
      const answer = await files.get('/workspace/range', { range, ...headers })
      return [answer.status, answer.text, answer.headers.get('content-range')]
    }
    assert.deepEqual(await ranged('bytes=2-4'), [206, '234', 'bytes 2-4/10'])
    assert.deepEqual(await ranged('bytes=7-'), [206, '789', 'bytes 7-9/10'])
    assert.deepEqual(await ranged('bytes=-3'), [206, '789', 'bytes 7-9/10'])
    assert.deepEqual(await ranged('bytes=8-100'), [206, '89', 'bytes 8-9/10'])
    assert.deepEqual(await ranged('bytes=1-2,5-6'), [200, '0123456789', null])
    const behind = await files.get('/workspace/range', { range: 'bytes=10-' })
    assert.deepEqual([behind.status, behind.body.code, behind.headers.get('content-range')], [416, 'range_not_satisfiable', 'bytes */10'])
    const etag = (await files.get('/workspace/range')).headers.get('etag') ?? ''
    assert.equal((await files.get('/workspace/range', { 'if-none-match': etag })).status, 304)
    assert.deepEqual(await ranged('bytes=0-1', { 'if-range': etag }), [206, '01', 'bytes 0-1/10'])
    assert.deepEqual(await ranged('bytes=0-1', { 'if-range': '"other"' }), [200, '0123456789', null])
  })

  await t.test('HEAD says what a GET would', async () => {
    const request = files.open('HEAD', '', { path: '/etc/passwd' }).end()
    const { statusCode, headers } = await answerTo(request)
    assert.equal(statusCode, 200)
    assert.ok(Number(headers['content-length']) > 0)
    assert.equal(headers['x-berth-file-owner'], '0:0')
  })

  await t.test('a file of /proc is read to its end, whatever its size says', async () => {
    const { status, text } = await files.get('/proc/version')
    assert.equal(status, 200)
    assert.match(text, /^Linux version/)
  })

  await t.test('64 MiB go in and come out as they were, through little memory', async () => {
    const hash = createHash('sha256')
    const request = files.open('PUT', '', { path: '/workspace/large' }, { 'transfer-encoding': 'chunked' })
    for (let sent = 0; sent < 64; sent++) {
      const chunk = randomBytes(MiB)
      hash.update(chunk)
      if (!request.write(chunk)) await once(request, 'drain')
    }
    const answer = answerTo(request.end())
    assert.equal((await answer).statusCode, 201)
    const back = createHash('sha256')
    let bytes = 0
    for await (const chunk of await answerTo(files.open('GET', '', { path: '/workspace/large' }).end()) as AsyncIterable<Buffer>) {
      back.update(chunk)
      bytes += chunk.length
    }
    assert.equal(bytes, 64 * MiB)
    assert.equal(back.digest('hex'), hash.digest('hex'))
  })

  await t.test('leave to send a body is given when nothing speaks against it, and a refusal comes without the body', async () => {
    const send = async (path: string, query: Record<string, string> = {}) => {
      const request = files.open('PUT', '', { path, ...query }, { expect: '100-continue', 'content-length': '5' })
      const answer = answerTo(request)
      request.flushHeaders()
      const isGiven = await Promise.race([once(request, 'continue').then(() => true), answer.then(() => false)])
      if (isGiven) request.end('hello')
      const { statusCode } = await answer
      request.destroy()
      return [isGiven, statusCode]
    }
    assert.deepEqual(await send('/workspace/expected'), [true, 201])
    assert.deepEqual(await send('/etc/expected'), [false, 403])
    assert.deepEqual(await send('/workspace/expected', { overwrite: 'false' }), [false, 409])
    assert.deepEqual(await send('relative'), [false, 400])
    assert.equal((await files.get('/workspace/expected')).text, 'hello')
  })

  await t.test('an upload that breaks off changes nothing and leaves nothing', async () => {
    await files.post('mkdir', { path: '/workspace/half' })
    await files.put('/workspace/half/f', 'whole')
    const request = files.open('PUT', '', { path: '/workspace/half/f' }, { 'content-length': String(10 * MiB) })
    request.write(randomBytes(4 * MiB))
    await waitFor(async () => (await shell('ls -A /workspace/half')).stdout.includes('.berth-upload-'))
    request.destroy()
    await waitFor(async () => (await shell('ls -A /workspace/half')).stdout === 'f\n')
    assert.equal((await files.get('/workspace/half/f')).text, 'whole')
  })

  await t.test('a directory is listed in pages', async () => {
    await shell('mkdir -p /workspace/list && cd /workspace/list && for i in 1 2 3 4 5; do echo $i > n$i; done; ln -s n1 link; mkdir dir; mkfifo fifo')
    const names: string[] = []
    let cursor: string | undefined
    let pages = 0
    do {
      const { status, text, body } = await files.list('/workspace/list', { limit: '3', ...(cursor === undefined ? {} : { cursor }) })
      assert.equal(status, 200, text)
      names.push(...body.items.map(({ name, type }) => `${name} ${type}`))
      cursor = body.nextCursor
      pages++
    } while (cursor !== undefined)
    assert.deepEqual(names, ['dir directory', 'fifo fifo', 'link symlink', 'n1 file', 'n2 file', 'n3 file', 'n4 file', 'n5 file'])
    assert.equal(pages, 3)
    assert.equal((await files.list('/workspace/list', { cursor: '!' })).body.code, 'invalid_cursor')
    const link = await files.stat('/workspace/list/link', { follow: 'false' })
    assert.deepEqual([link.body.type, link.body.target], ['symlink', 'n1'])
    assert.equal((await files.stat('/workspace/list/link')).body.type, 'file')
  })

  await t.test('directories are made, moved and removed', async () => {
    assert.equal((await files.post('mkdir', { path: '/workspace/m/a', mode: '0700' })).body.mode, '0700')
    assert.equal((await files.post('mkdir', { path: '/workspace/m/a', parents: false })).body.code, 'path_exists')
    await files.put('/workspace/m/a/f', 'f')
    assert.equal((await files.post('move', { from: '/workspace/m/a', to: '/workspace/m/b' })).body.path, '/workspace/m/b')
    await files.put('/workspace/m/g', 'g')
    assert.equal((await files.post('move', { from: '/workspace/m/g', to: '/workspace/m/b/f', overwrite: false })).body.code, 'path_exists')
    assert.equal((await files.post('remove', { path: '/workspace/m/b' })).body.code, 'directory_not_empty')
    assert.equal((await files.post('remove', { path: '/workspace/m', recursive: true })).body.removed, 4)
    assert.equal((await files.post('remove', { path: '/workspace/m' })).status, 404)
    assert.equal((await files.post('remove', { path: '/workspace/m', ignoreMissing: true })).body.removed, 0)
  })

  await t.test('refusals are typed', async () => {
    const codes = await Promise.all([
      files.get('/nowhere'), files.get('/etc'), files.get('/etc/passwd/x'), files.put('/etc/new', 'x'), files.put('/proc/version', 'x'), files.get('/dev/zero'),
      files.get(`/${'n'.repeat(300)}`), files.get('relative'), files.put('/workspace/x', 'x', { owner: 'nobody-of-here' }), files.put('/workspace/x', 'x', { mode: '999' }),
      files.get('/etc/passwd', {}, { user: 'nobody-of-here' }), files.get('/etc/passwd', {}, { unknown: '1' }),
    ])
    assert.deepEqual(codes.map(({ status, body }) => `${status} ${body.code}`), [
      '404 path_not_found', '409 is_directory', '409 not_a_directory', '403 permission_denied', '403 permission_denied', '409 not_a_file',
      '400 name_too_long', '400 invalid_path', '400 unknown_owner', '400 invalid_parameter',
      '400 user_not_found', '400 unknown_parameter',
    ])
  })

  await t.test('what only root may write, root writes', async () => {
    assert.equal((await files.put('/etc/rooted', 'x', { user: 'root' })).status, 201)
    assert.equal((await files.put('/workspace/given', 'x', { user: 'root', owner: '1000:1000' })).body.uid, 1000)
  })

  await t.test('a directory goes out as a tar and in again', async () => {
    await shell('mkdir -p /workspace/tree/sub && cd /workspace/tree && echo one > f && echo two > sub/g && ln -s f l && chmod 750 sub')
    const tar = await bytesOf(await answerTo(files.open('GET', '/archive', { path: '/workspace/tree' }).end()) as AsyncIterable<Buffer>)
    for (const [place, body, headers] of [['plain', tar, {}], ['packed', gzipSync(tar), { 'content-encoding': 'gzip' }]] as const) {
      const { statusCode } = await answerTo(files.open('PUT', '/archive', { path: `/workspace/${place}` }, headers).end(body))
      assert.equal(statusCode, 204)
      assert.equal((await shell(`cd /workspace/${place}/tree && cat f sub/g l && stat -c %a sub`)).stdout, 'one\ntwo\none\n750\n')
    }
    const broken = await answerTo(files.open('PUT', '/archive', { path: '/workspace/broken' }, { 'content-encoding': 'gzip' }).end(tar))
    assert.deepEqual([broken.statusCode, JSON.parse(String(await bytesOf(broken as AsyncIterable<Buffer>))).code], [400, 'invalid_archive'])
    const none = await answerTo(files.open('PUT', '/archive', { path: '/workspace/broken' }).end('no archive at all'))
    assert.equal(none.statusCode, 400)
    assert.equal((await answerTo(files.open('PUT', '', { path: '/workspace/x' }, { 'content-encoding': 'gzip' }).end('x'))).statusCode, 415)
    const packed = await answerTo(files.open('GET', '/archive', { path: '/workspace/tree' }, { 'accept-encoding': 'gzip' }).end())
    assert.equal(packed.headers['content-encoding'], 'gzip')
    packed.destroy()
  })

  await t.test('files are found by name and by text', async () => {
    await shell('mkdir -p /workspace/s/t && cd /workspace/s && echo "a needle here" > one.txt && printf "x\\nNEEDLE\\n" > t/two.txt && echo needle > three.md')
    const found = async (query: Record<string, string>) => (await files.search('/workspace/s', query)).body.items.map(({ path, line }) => `${path.slice(13)}${line === undefined ? '' : `:${line}`}`).sort()
    assert.deepEqual(await found({ name: '*.txt' }), ['one.txt', 't/two.txt'])
    assert.deepEqual(await found({ name: '*.txt', text: 'needle', ignoreCase: '' }), ['one.txt:1', 't/two.txt:2'])
    assert.deepEqual(await found({ text: '^needle$', regex: '' }), ['three.md:1'])
    assert.equal((await files.search('/workspace/s', { text: '(', regex: '' })).body.code, 'invalid_pattern')
    assert.equal((await files.search('/workspace/s', { name: '*', limit: '1' })).body.isTruncated, true)
  })

  await t.test('changes are told while they happen, and end with the sandbox', async () => {
    const other = await daemon.create()
    const others = new FileClient(daemon, other.id)
    const response = await answerTo(others.open('GET', '/watch', { path: '/workspace', recursive: 'true', format: 'ndjson' }).end())
    const seen: string[] = []
    let isOver = false
    const reading = (async () => {
      let text = ''
      for await (const chunk of response as AsyncIterable<Buffer>) {
        text += chunk.toString()
        seen.splice(0, seen.length, ...text.split('\n').filter(Boolean).map(line => { const { type, path } = JSON.parse(line); return `${type} ${path}` }))
      }
      isOver = true
    })()
    await waitFor(async () => seen[0] === 'ready /workspace')
    await others.put('/workspace/sub/new', 'x')
    await waitFor(async () => seen.some(line => line.endsWith(' /workspace/sub/new')))
    await daemon.remove(other.id)
    await waitFor(async () => isOver)
    await reading
    assert.ok(!seen.some(line => line.startsWith('error')), seen.join('; '))
    assert.equal((await others.stat('/')).status, 404)
  })

  await t.test('a sandbox that is paused, or has ended, refuses', async () => {
    const other = await daemon.create()
    const others = new FileClient(daemon, other.id)
    await daemon.request('POST', `/v1/sandboxes/${other.id}/pause`)
    assert.deepEqual([(await others.stat('/')).status, (await others.stat('/')).body.code], [409, 'invalid_state'])
    await daemon.request('POST', `/v1/sandboxes/${other.id}/resume`)
    await daemon.request('POST', `/v1/sandboxes/${other.id}/stop`, { force: true })
    assert.equal((await others.put('/workspace/f', 'x')).status, 409)
    await daemon.remove(other.id)
  })

  await t.test('a POST that is sent twice with a key happens once', async () => {
    const twice = async () => await daemon.request<{ removed: number }>('POST', files.url('/remove', {}), { path: '/workspace/range' }, { 'idempotency-key': 'remove-once' })
    assert.equal((await twice()).body.removed, 1)
    const again = await twice()
    assert.deepEqual([again.body.removed, again.headers.get('idempotency-replayed')], [1, 'true'])
  })

  await t.test('at most 32 calls go on at once, and a client that goes away frees its place', async () => {
    const watchers = await Promise.all(Array.from({ length: 32 }, async () => {
      const request = files.open('GET', '/watch', { path: '/workspace' }).end()
      return { request, status: (await answerTo(request)).statusCode }
    }))
    assert.deepEqual(new Set(watchers.map(({ status }) => status)), new Set([200]))
    const refused = await files.stat('/')
    assert.deepEqual([refused.status, refused.body.code], [429, 'too_many_file_calls'])
    for (const { request } of watchers) request.destroy()
    await waitFor(async () => (await files.stat('/')).status === 200)
    await waitFor(async () => (await shell('ps -o comm | grep -c "^files$"; true')).stdout === '0\n')
  })

  await t.test('what a killed daemon left under way inside is ended by the next', async () => {
    const watch = files.open('GET', '/watch', { path: '/workspace' }).end()
    await answerTo(watch)
    const upload = files.open('PUT', '', { path: '/workspace/cut' }, { 'content-length': '100' })
    upload.write('half')
    await waitFor(async () => (await shell('ps -o comm | grep -c "^files$"; true')).stdout === '2\n')
    await daemon.restart('SIGKILL')
    await waitFor(async () => (await shell('ps -o comm | grep -c "^files$"; true')).stdout === '0\n')
    assert.equal((await shell('ls -A /workspace | grep -c berth-upload; true')).stdout, '0\n')
    assert.equal((await files.stat('/workspace/cut')).status, 404)
  })
})

/** Looks until it is so. */
async function waitFor (isSo: () => Promise<boolean>): Promise<void> {
  const until = Date.now() + 20_000
  while (!await isSo()) {
    assert.ok(Date.now() < until, 'it did not become so in time')
    await delay(20)
  }
}
