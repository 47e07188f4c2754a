import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { resolveImageUser } from '../../../src/services/images/image-user.ts'
import { tempDir } from './temp-dir.ts'

const passwd = 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nbroken\n:x:5:5::/:\nbig:x:4294967295:1::/:\n'
const group = 'root:x:0:\nstaff:x:50:app,other\nwheel:x:10:app\napp:x:1001:app\n'

function layer (t: TestContext, files: Record<string, string>): string {
  const dir = tempDir(t)
  mkdirSync(join(dir, 'etc'))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, 'etc', name), content)
  return dir
}

test('numbers need no entry in the image', async t => {
  const dir = tempDir(t)
  assert.deepEqual(await resolveImageUser([dir], '7:8'), { uid: 7, gid: 8, additionalGids: [] })
  assert.deepEqual(await resolveImageUser([dir], '7'), { uid: 7, gid: 0, additionalGids: [] })
})

test('names are found with their group, further groups and home', async t => {
  const dir = layer(t, { passwd, group })
  const app = { uid: 1000, gid: 1001, additionalGids: [10, 50], home: '/home/app', name: 'app' }
  assert.deepEqual(await resolveImageUser([dir], 'app'), app)
  assert.deepEqual(await resolveImageUser([dir], '1000'), app)
  assert.deepEqual(await resolveImageUser([dir], 'app:wheel'), { ...app, gid: 10, additionalGids: [] })
  assert.deepEqual(await resolveImageUser([dir], 'app:77'), { ...app, gid: 77, additionalGids: [] })
})

test('unknown users and groups are told apart', async t => {
  const dir = layer(t, { passwd, group })
  for (const user of ['nobody', 'big', '4294967295', '', 'a:b:c', ':0', 'app:', '-1', '0x10', '1e3']) {
    await assert.rejects(resolveImageUser([dir], user), { kind: 'invalid_argument', code: 'user_not_found' }, user)
  }
  await assert.rejects(resolveImageUser([dir], 'app:nobody'), { kind: 'invalid_argument', code: 'group_not_found' })
})

test('the topmost layer that has the file decides', async t => {
  const upper = layer(t, { passwd: 'app:x:5:5::/:/bin/sh\n' })
  const lower = layer(t, { passwd, group })
  assert.equal((await resolveImageUser([upper, lower], 'app')).uid, 5)
  assert.deepEqual((await resolveImageUser([upper, lower], 'app')).additionalGids, [10, 50, 1001])
  await assert.rejects(resolveImageUser([upper, lower], 'root'), { code: 'user_not_found' })
})

test('links are resolved inside the image and never lead out of it', async t => {
  const outside = layer(t, { passwd: 'outsider:x:666:666::/:/bin/sh\n' })
  const cases: Array<(dir: string) => void> = [
    dir => symlinkSync(join(outside, 'etc'), join(dir, 'etc')),
    dir => symlinkSync('/etc', join(dir, 'etc')),
    dir => { mkdirSync(join(dir, 'etc')); symlinkSync(join(outside, 'etc/passwd'), join(dir, 'etc/passwd')) },
    dir => { mkdirSync(join(dir, 'etc')); symlinkSync(`../../../../../..${outside}/etc/passwd`, join(dir, 'etc/passwd')) },
    dir => { mkdirSync(join(dir, 'etc')); symlinkSync('../..', join(dir, 'etc/up')); symlinkSync(`up/../..${outside}/etc/passwd`, join(dir, 'etc/passwd')) },
    dir => { mkdirSync(join(dir, 'etc')); symlinkSync('/proc/self/root/etc/passwd', join(dir, 'etc/passwd')) },
  ]
  for (const make of cases) {
    const dir = tempDir(t)
    make(dir)
    for (const user of ['outsider', 'root', 'daemon']) {
      await assert.rejects(resolveImageUser([dir], user), { kind: 'invalid_argument' }, make.toString())
    }
  }
})

test('an image whose passwd is a link within itself works', async t => {
  const dir = tempDir(t)
  mkdirSync(join(dir, 'etc'))
  mkdirSync(join(dir, 'usr/share'), { recursive: true })
  writeFileSync(join(dir, 'usr/share/passwd'), passwd)
  symlinkSync('/usr/lib/../share/passwd', join(dir, 'etc/passwd'))
  symlinkSync('share', join(dir, 'usr/lib'))
  assert.equal((await resolveImageUser([dir], 'app')).uid, 1000)
})

test('a passwd that is no regular file, a loop or huge makes the image invalid and is not waited for', async t => {
  const make: Record<string, (path: string) => void> = {
    fifo: path => execFileSync('mkfifo', [path]),
    directory: path => mkdirSync(path),
    loop: path => symlinkSync('passwd', path),
    huge: path => writeFileSync(path, Buffer.alloc(1024 ** 2 + 1, 'x')),
  }
  for (const [name, makeAt] of Object.entries(make)) {
    const dir = layer(t, {})
    makeAt(join(dir, 'etc/passwd'))
    await assert.rejects(resolveImageUser([dir], 'app'), { kind: 'invalid_argument', code: 'image_invalid' }, name)
  }
})

test('no file handle stays open', async t => {
  const dir = layer(t, { passwd, group })
  const loop = layer(t, {})
  symlinkSync('passwd', join(loop, 'etc/passwd'))
  const before = readdirSync('/proc/self/fd').length
  await resolveImageUser([loop, dir], 'app').catch(() => {})
  await resolveImageUser([dir, loop], 'app:staff')
  await resolveImageUser([dir], 'nobody').catch(() => {})
  assert.equal(readdirSync('/proc/self/fd').length, before)
})
