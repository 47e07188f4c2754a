/** Files of sandboxes that mean harm, on the real runtime: nothing of the host is read or touched, nothing hangs, and what is refused is refused by name. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { test, type TestContext } from 'node:test'
import { findProgram } from '../../src/host/command.ts'
import type { SandboxCreate } from '../../src/schemas/sandbox.ts'
import { answerTo, bytesOf, FileClient } from '../support/file-client.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const MiB = 1024 ** 2
const secret = 'marker of the host'

/** A daemon, and files of the host that nobody inside may ever see or change, under names that exist inside too. */
async function build (t: TestContext, input: Partial<SandboxCreate> = {}) {
  const daemon = await TestDaemon.start(t)
  const hostDir = await mkdtemp(join(tmpdir(), 'berth-marked-'))
  t.after(() => rm(hostDir, { recursive: true }))
  await writeFile(join(hostDir, 'victim'), secret)
  const { id } = await daemon.create(input)
  const files = new FileClient(daemon, id)
  const shell = async (script: string, user?: string) => (await daemon.exec(id, ['/.berth/busybox', 'sh', '-c', script], user === undefined ? {} : { user })).stdout
  const assertHostUntouched = async () => {
    assert.equal(await readFile(join(hostDir, 'victim'), 'utf8'), secret)
    assert.deepEqual(await readdir(hostDir), ['victim'])
  }
  return { daemon, id, files, shell, hostDir, assertHostUntouched }
}

test('links, races and odd files', async t => {
  const { daemon, id, files, shell, hostDir, assertHostUntouched } = await build(t)

  await t.test('a link leads to what is inside, never to the host', async () => {
    await shell(`ln -s /etc/passwd /workspace/link; ln -s ${hostDir}/victim /workspace/out; ln -s ../../../../../../../..${hostDir}/victim /workspace/up; ln -s loop /workspace/loop`)
    assert.equal((await files.get('/workspace/link')).text, await shell('cat /etc/passwd'))
    assert.notEqual((await files.get('/workspace/link')).text, await readFile('/etc/passwd', 'utf8'))
    assert.equal((await files.get('/workspace/out')).status, 404)
    assert.equal((await files.get('/workspace/up')).status, 404)
    assert.equal((await files.get('/workspace/../../../../../../etc/shadow', {}, { user: 'root' })).status, 404)
    assert.equal((await files.get('/workspace/loop')).body.code, 'too_many_links')
    await shell(`mkdir -p ${hostDir}`)
    assert.equal((await files.put('/workspace/out', 'inside')).status, 201)
    assert.equal(await shell(`cat ${hostDir}/victim`), 'inside')
    await assertHostUntouched()
  })

  await t.test('links that are swapped all the time lead nowhere else', async () => {
    await shell(`mkdir -p /workspace/race/real ${hostDir}; echo inside > /workspace/race/real/victim`, 'root')
    const swapping = daemon.request('POST', `/v1/sandboxes/${id}/execs`, {
      argv: ['/.berth/busybox', 'sh', '-c', `cd /workspace/race; while [ ! -e /tmp/over ]; do rm -rf now; ln -s ${hostDir} now; rm -f now; mkdir now; echo inside > now/victim; done`], user: 'root',
    })
    const seen = new Set<string>()
    const codes = new Set<string | undefined>()
    for (let round = 0; round < 12; round++) {
      const answers = await Promise.all([
        files.get('/workspace/race/now/victim', {}, { user: 'root' }),
        files.put('/workspace/race/now/victim', 'written', { user: 'root' }),
        files.post('remove', { path: '/workspace/race/now', recursive: true }, { user: 'root' }),
      ])
      if (answers[0].status === 200) seen.add(answers[0].text.trim())
      for (const { body } of answers) codes.add(body.code)
    }
    await shell('touch /tmp/over')
    await swapping
    assert.ok([...seen].every(text => ['inside', 'written', ''].includes(text)), [...seen].join())
    assert.ok(![...codes].includes('internal'), [...codes].join())
    await assertHostUntouched()
  })

  await t.test('FIFOs, sockets and devices are refused, without waiting', async () => {
    await shell('mkfifo /workspace/fifo; nc -l -U /workspace/socket >/dev/null 2>&1 & ln -s /dev/zero /workspace/zero; true')
    for (const path of ['/workspace/fifo', '/dev/zero', '/workspace/zero', '/dev/full', '/proc/self/fd/0']) {
      assert.equal((await files.get(path)).body.code, 'not_a_file', path)
    }
    assert.equal((await files.put('/workspace/fifo', 'x')).body.code, 'not_a_file')
    assert.ok((await files.search('/workspace', { text: 'nothing' })).status === 200)
    const tar = await answerTo(files.open('GET', '/archive', { path: '/workspace' }).end())
    assert.ok((await bytesOf(tar as AsyncIterable<Buffer>)).length > 512)
  })

  await t.test('names are bytes', async () => {
    await shell(`mkdir /workspace/names; cd /workspace/names; touch -- 'line
end' 'quo"te' "$(printf 'bad\\377')" -rf 'tab\tulator'`)
    const { body, text } = await files.list('/workspace/names')
    assert.equal(body.items.length, 5, text)
    assert.deepEqual(body.items.map(({ name, encoding }) => Buffer.from(name, encoding ?? 'utf8').toString('latin1')).sort(), ['-rf', 'bad\xff', 'line\nend', 'quo"te', 'tab\tulator'].sort())
    const bad = Buffer.from('/workspace/names/bad\xff', 'latin1')
    assert.equal((await files.put(bad.toString('base64url'), 'bytes', { pathEncoding: 'base64' })).status, 200)
    assert.equal((await files.get(bad.toString('base64url'), {}, { pathEncoding: 'base64' })).text, 'bytes')
    assert.equal((await files.post('remove', { path: bad.toString('base64') }, { pathEncoding: 'base64' })).body.removed, 1)
    assert.equal((await files.get('/workspace/names/line\nend')).status, 200)
    const download = await files.get('/workspace/names/quo"te')
    assert.equal(download.headers.get('content-disposition'), "attachment; filename*=UTF-8''quo%22te")
  })

  await t.test('times that no calendar has are told all the same', async () => {
    await shell('cd /workspace; touch old new; touch -d @-9999999999 old; touch -d @253402300800 new; true')
    assert.equal((await files.stat('/workspace/old')).status, 200)
    assert.equal((await files.get('/workspace/new')).status, 200)
  })

  await t.test('a program that kills or mocks ours is an error, not an answer', async () => {
    const killing = daemon.request('POST', `/v1/sandboxes/${id}/execs`, {
      argv: ['/.berth/busybox', 'sh', '-c', 'while [ ! -e /tmp/enough ]; do for p in $(pidof files); do echo \'{"ok":true}\' > /proc/$p/fd/1; kill -9 $p; done; done'],
    })
    const codes = new Set<string>()
    for (let round = 0; round < 10; round++) {
      const [stat, list] = await Promise.all([files.stat('/workspace'), files.list('/etc')])
      for (const { status, body } of [stat, list]) codes.add(status === 200 ? 'ok' : body.code)
    }
    await shell('touch /tmp/enough')
    await killing
    assert.ok([...codes].every(code => ['ok', 'file_program_failed'].includes(code)), [...codes].join())
    assert.equal((await files.stat('/workspace')).status, 200)
    assert.equal((await files.put('/.berth/files', 'x', { user: 'root' })).body.code, 'read_only')
  })

  await t.test('a user without permission is told so', async () => {
    await shell('mkdir -p /root/own; echo x > /root/own/f; chmod 700 /root', 'root')
    assert.equal((await files.get('/root/own/f')).body.code, 'permission_denied')
    assert.equal((await files.put('/root/own/f', 'y')).body.code, 'permission_denied')
    assert.equal((await files.post('remove', { path: '/root/own', recursive: true })).body.code, 'permission_denied')
    assert.equal((await files.get('/root/own/f', {}, { user: 'root' })).text, 'x\n')
  })

  await t.test('a tree of 3000 levels is listed and removed, and an archive of it breaks off', async () => {
    const levels = '/d'.repeat(1500)
    assert.equal((await files.post('mkdir', { path: `/workspace/deep${levels}` })).status, 200)
    assert.equal((await files.post('mkdir', { path: `/workspace/under${levels}` })).status, 200)
    assert.equal((await files.post('move', { from: '/workspace/under', to: `/workspace/deep${levels}/under` })).status, 200)
    assert.equal((await files.list(`/workspace/deep${levels}`)).body.items[0]?.name, 'under')
    await assert.rejects(async () => bytesOf(await answerTo(files.open('GET', '/archive', { path: '/workspace/deep' }).end()) as AsyncIterable<Buffer>), { code: 'ECONNRESET' })
    const removed = await files.post('remove', { path: '/workspace/deep', recursive: true })
    assert.equal(removed.body.removed, 3002, removed.text)
  })

  await t.test('100,000 entries are paged completely', async () => {
    await shell('mkdir /dev/shm/many; cd /dev/shm/many; seq 1 100000 | xargs touch')
    let count = 0
    let last = ''
    for (let cursor: string | undefined, isFirst = true; isFirst || cursor !== undefined; isFirst = false) {
      const { body, text } = await files.list('/dev/shm/many', { limit: '1000', ...(cursor === undefined ? {} : { cursor }) })
      assert.ok(body.items, text)
      for (const { name } of body.items) {
        assert.ok(last < name, `${last} before ${name}`)
        last = name
      }
      count += body.items.length
      cursor = body.nextCursor
    }
    assert.equal(count, 100_000)
    assert.equal((await files.post('remove', { path: '/dev/shm/many', recursive: true })).body.removed, 100_001)
  })

  await t.test('a file without an end goes on until its reader goes away', async () => {
    await shell('dd if=/dev/zero of=/workspace/huge bs=1 count=1 seek=1099511627775 2>/dev/null')
    const request = files.open('GET', '', { path: '/workspace/huge' }).end()
    const response = await answerTo(request)
    await once(response, 'data')
    request.destroy()
    await until(async () => await shell('ps -o comm | grep -c "^files$"; true') === '0\n')
  })

  await t.test('a file that is cut while it is sent breaks the connection off', async () => {
    await shell('dd if=/dev/zero of=/workspace/cut bs=1048576 count=64 2>/dev/null')
    const response = await answerTo(files.open('GET', '', { path: '/workspace/cut' }).end())
    await shell(': > /workspace/cut')
    await assert.rejects(bytesOf(response as AsyncIterable<Buffer>), { code: 'ECONNRESET' })
  })
})

test('a disk that is full leaves the file as it was', async t => {
  const { files, shell } = await build(t, { resources: { diskBytes: 64 * MiB } })
  await files.put('/workspace/kept', 'old')
  const announced = files.open('PUT', '', { path: '/workspace/kept' }, { 'content-length': String(500 * MiB), expect: '100-continue' })
  const refusal = answerTo(announced)
  announced.flushHeaders()
  const early = await refusal
  assert.equal(early.statusCode, 429)
  assert.equal(JSON.parse(String(await bytesOf(early as AsyncIterable<Buffer>))).code, 'no_space')
  announced.destroy()

  const request = files.open('PUT', '', { path: '/workspace/kept' }, { 'transfer-encoding': 'chunked' })
  const answer = answerTo(request)
  let isAnswered = false
  void answer.then(() => { isAnswered = true })
  const chunk = Buffer.alloc(MiB, 1)
  for (let sent = 0; sent < 500 && !isAnswered && !request.destroyed; sent++) {
    if (!request.write(chunk)) await Promise.race([new Promise(resolve => request.once('drain', resolve)), answer])
  }
  const refused = await answer
  assert.equal(refused.statusCode, 429)
  assert.equal(JSON.parse(String(await bytesOf(refused as AsyncIterable<Buffer>))).code, 'no_space')
  request.destroy()
  assert.equal((await files.get('/workspace/kept')).text, 'old')
  await until(async () => await shell('ls -A /workspace') === 'kept\n')
})

test('an image without a shell has files too', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-bare-'))
  await mkdir(join(dir, 'bin'))
  const busybox = findProgram('busybox')
  assert.ok(busybox)
  await copyFile(busybox, join(dir, 'bin', 'sleep'))
  const { files } = await build(t, { image: `dir:${dir}`, entrypoint: ['/bin/sleep', '1000'], workingDir: '/', user: '0:0' })
  t.after(() => rm(dir, { recursive: true }))
  assert.equal((await files.put('/data/f', 'bare')).status, 201)
  assert.equal((await files.get('/data/f')).text, 'bare')
  assert.deepEqual((await files.list('/data')).body.items.map(({ name, uid, owner }) => [name, uid, owner]), [['f', 0, undefined]])
})

/** Looks until it is so. */
async function until (isSo: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + 20_000
  while (!await isSo()) {
    assert.ok(Date.now() < end, 'it did not become so in time')
    await delay(20)
  }
}
