/** Files served over FUSE, read by another process than the one that serves. Needs root and /dev/fuse. */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, open, readdir, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { makeTarIndex, mountLayer } from '../../src/host/erofs.ts'
import { abortFuse, isFuseUsable } from '../../src/host/fuse-mount.ts'
import { connectionGoneExitCode } from '../../src/host/image-keeper.ts'
import { detach, isMounted, unmount } from '../../src/host/mount.ts'
import { killProcess } from '../../src/host/process.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { FuseRig } from '../support/fuse-rig.ts'

const run = promisify(execFile)
const MiB = 1024 * 1024

test('this host can serve over FUSE', async () => {
  assert.equal(await isFuseUsable(), true)
})

for (const present of ['all', 'none', 'even'] as const) {
  test(`random reads of a file of which ${present} is present are right`, async t => {
    const rig = await FuseRig.build(t)
    const content = rig.contentOf((await rig.makeFile('file', 5 * MiB + 12_345, present)).name)
    await rig.start()
    const file = await open(rig.pathOf('file'))
    try {
      for (let n = 0; n < 100; n++) {
        const start = Math.floor(Math.random() * content.length)
        const length = Math.floor(Math.random() ** 3 * 2 * MiB) + 1
        const { bytesRead, buffer } = await file.read(Buffer.alloc(length), 0, length, start)
        assert.equal(bytesRead, Math.min(length, content.length - start))
        assert.ok(buffer.subarray(0, bytesRead).equals(content.subarray(start, start + bytesRead)), `${length} bytes from ${start}`)
      }
      assert.equal((await file.read(Buffer.alloc(10), 0, 10, content.length)).bytesRead, 0)
      assert.equal((await file.read(Buffer.alloc(10), 0, 10, content.length + MiB)).bytesRead, 0)
    } finally {
      await file.close()
    }
    assert.equal(rig.fetched.length === 0, present === 'all')
    assert.ok((await readFile(rig.pathOf('file'))).equals(content))
  })
}

test('odd sizes, an empty file and small granules are served whole', async t => {
  const rig = await FuseRig.build(t)
  const sizes = [0, 1, 4095, 4097, 65_536, 65_537, MiB + 1]
  for (const size of sizes) await rig.makeFile(`s${size}`, size, 'even', 4096)
  await rig.start()
  for (const size of sizes) {
    assert.ok((await readFile(rig.pathOf(`s${size}`))).equals(rig.contentOf(`s${size}`)), String(size))
    assert.equal((await stat(rig.pathOf(`s${size}`))).size, size)
  }
  assert.deepEqual(await readdir(rig.target), sizes.map(size => `s${size}`).sort())
  assert.equal((await statfs(rig.target)).files, sizes.length)
})

test('a directory of many files is listed whole', async t => {
  const rig = await FuseRig.build(t)
  const names = Array.from({ length: 200 }, (_, n) => `${String(n).padStart(3, '0')}-${'x'.repeat(60)}`)
  for (const name of names) await rig.makeFile(name, 1)
  await rig.start()
  assert.deepEqual((await readdir(rig.target)).sort(), names)
})

test('a failed fetch is EIO for the reader, and the next read succeeds', async t => {
  const rig = await FuseRig.build(t)
  await rig.makeFile('file', 300_000)
  await writeFile(rig.outageMarker, '')
  await rig.start()
  await assert.rejects(readFile(rig.pathOf('file')), { code: 'EIO' })
  await rm(rig.outageMarker)
  assert.ok((await readFile(rig.pathOf('file'))).equals(rig.contentOf('file')))
})

test('many readers at once all read what is right', async t => {
  const rig = await FuseRig.build(t)
  for (const name of ['a', 'b', 'c', 'd']) await rig.makeFile(name, 3 * MiB + 7, name === 'a' ? 'all' : 'none')
  await rig.start()
  const readers = Array.from({ length: 24 }, async (_, n) => {
    const name = 'abcd'[n % 4] ?? ''
    const { stdout } = await run('cat', [rig.pathOf(name)], { encoding: 'buffer', maxBuffer: 8 * MiB })
    assert.ok(stdout.equals(rig.contentOf(name)))
  })
  await Promise.all(readers)
})

test('a read that waits keeps none of the others', async t => {
  const rig = await FuseRig.build(t)
  await rig.makeFile('missing', MiB)
  await rig.makeFile('present', 4 * MiB, 'all')
  await rig.start({ stallMarker: rig.stallMarker })
  // Past the page cache the kernel waits for the answer itself, and only that cannot be killed without one.
  const readers = ['direct', 'fullblock'].map(flag => spawn('dd', [`if=${rig.pathOf('missing')}`, 'of=/dev/null', 'bs=64k', `iflag=${flag}`], { stdio: 'ignore' }))
  assert.ok(await pollUntil(async () => rig.fetched.length >= readers.length, 5000))
  assert.ok((await readFile(rig.pathOf('present'))).equals(rig.contentOf('present')))
  const ends = readers.map(reader => once(reader, 'exit'))
  for (const reader of readers) reader.kill('SIGKILL')
  // Killed readers go although their reads are never answered.
  await Promise.all(ends)
})

test('signals that a reader takes and goes on do not fail its read', async t => {
  const rig = await FuseRig.build(t)
  await rig.makeFile('file', 300_000)
  await rig.start({ gateMarker: rig.gateMarker })
  const script = 'use Fcntl; my $n = 0; $SIG{USR1} = sub { $n++ }; sysopen(F, $ARGV[0], O_RDONLY | O_DIRECT) or die; my $got = sysread(F, my $data, 300000); die "read: $!" unless defined $got; print $data'
  const reader = spawn('perl', ['-e', script, rig.pathOf('file')], { stdio: ['ignore', 'pipe', 'inherit'] })
  const output = reader.stdout.toArray()
  const ended = once(reader, 'exit')
  assert.ok(await pollUntil(async () => rig.fetched.length > 0, 5000))
  for (let n = 0; n < 5; n++) {
    reader.kill('SIGUSR1')
    // Longer than the server takes to look at who was interrupted.
    await delay(100)
  }
  await writeFile(rig.gateMarker, '')
  assert.deepEqual(await ended, [0, null])
  assert.ok(Buffer.concat(await output).equals(rig.contentOf('file')))
})

test('a removed file is not found, and reads of those who have it open are EIO', async t => {
  const rig = await FuseRig.build(t)
  await rig.makeFile('kept', 1000, 'all')
  await rig.makeFile('gone', 4 * MiB, 'all')
  await rig.start()
  const file = await open(rig.pathOf('gone'))
  try {
    assert.equal((await file.read(Buffer.alloc(4096), 0, 4096, 0)).bytesRead, 4096)
    await rig.order({ remove: 'gone' })
    await assert.rejects(file.read(Buffer.alloc(4096), 0, 4096, 3 * MiB), { code: 'EIO' })
    await assert.rejects(stat(rig.pathOf('gone')), { code: 'ENOENT' })
    assert.deepEqual(await readdir(rig.target), ['kept'])
  } finally {
    await file.close()
  }
})

test('a file added while the server runs is found at once', async t => {
  const rig = await FuseRig.build(t)
  await rig.start()
  await assert.rejects(stat(rig.pathOf('late')), { code: 'ENOENT' })
  await rig.order({ add: await rig.makeFile('late', 100_000) })
  assert.ok((await readFile(rig.pathOf('late'))).equals(rig.contentOf('late')))
})

test('nothing can be written', async t => {
  const rig = await FuseRig.build(t)
  await rig.makeFile('file', 10, 'all')
  await rig.start()
  await assert.rejects(open(rig.pathOf('file'), 'r+'), { code: 'EROFS' })
  await assert.rejects(writeFile(rig.pathOf('other'), ''), { code: 'EROFS' })
  await assert.rejects(mkdir(rig.pathOf('dir')), { code: 'EROFS' })
})

test('a server that is told to ends, by itself or by process.exit, and nobody need ask it anything', async t => {
  for (const order of [{ close: true }, { exit: 7 }] as const) {
    const rig = await FuseRig.build(t)
    await rig.makeFile('file', 10, 'all')
    const server = await rig.start()
    const ended = once(server, 'exit')
    server.send(order)
    assert.deepEqual(await ended, ['exit' in order ? 7 : 0, null])
    await abortFuse(rig.target)
  }
})

test('a server whose mount is gone says so', async t => {
  const rig = await FuseRig.build(t)
  await rig.makeFile('file', 10, 'all')
  const server = await rig.start()
  const ended = once(server, 'exit')
  await unmount(rig.target)
  assert.deepEqual(await ended, [connectionGoneExitCode, null])
})

test('a read outlives the death of the server that took it', async t => {
  const rig = await FuseRig.build(t)
  await rig.makeFile('file', 3 * MiB + 77, 'even')
  const keeper = await rig.startKept({ stallMarker: rig.stallMarker })
  const first = await rig.serverOf(keeper)
  assert.ok(first)
  const read = run('cat', [rig.pathOf('file')], { encoding: 'buffer', maxBuffer: 8 * MiB })
  assert.ok(await pollUntil(async () => existsSync(rig.stallMarker), 10_000))
  killProcess(first)
  assert.ok((await read).stdout.equals(rig.contentOf('file')))
  const second = await rig.serverOf(keeper)
  assert.ok(second !== undefined && second !== first)
  assert.equal(await readFile(join(rig.dir, 'ready'), 'utf8'), '2')
  // A second death, with nothing at hand.
  killProcess(second)
  const again = await run('cat', [rig.pathOf('file')], { encoding: 'buffer', maxBuffer: 8 * MiB })
  assert.ok(again.stdout.equals(rig.contentOf('file')))
})

test('without keeper and server reads fail, and the mount can be taken away', async t => {
  const rig = await FuseRig.build(t)
  await rig.makeFile('file', 3 * MiB, 'none')
  const keeper = await rig.startKept({ stallMarker: rig.stallMarker })
  const server = await rig.serverOf(keeper)
  const read = run('cat', [rig.pathOf('file')])
  const rejected = assert.rejects(read)
  assert.ok(await pollUntil(async () => existsSync(rig.stallMarker), 10_000))
  killProcess(keeper.pid)
  killProcess(server ?? -1)
  await rejected
  await assert.rejects(readFile(rig.pathOf('file')), { code: 'ENOTCONN' })
  assert.equal(await isMounted(rig.target), true)
  await detach(rig.target)
  assert.equal(await isMounted(rig.target), false)
})

test('EROFS reads a layer through it', async t => {
  const rig = await FuseRig.build(t)
  const tree = join(rig.dir, 'tree')
  await mkdir(join(tree, 'sub'), { recursive: true })
  const contents = new Map([['small', Buffer.from('a few bytes')], ['sub/odd', Buffer.alloc(70_001, 'odd')], ['sub/large', Buffer.alloc(3 * MiB + 5, 'large')]])
  for (const [name, content] of contents) await writeFile(join(tree, name), content)
  const [tar, meta, layer] = [join(rig.dir, 'layer.tar'), join(rig.dir, 'meta.erofs'), join(rig.dir, 'layer')]
  await run('tar', ['-C', tree, '-cf', tar, '.'])
  assert.equal(await makeTarIndex(tar, meta), undefined)
  await rig.makeFile('sha', await readFile(tar), 'none')
  await mkdir(layer)
  await rig.startKept()
  await mountLayer({ metaPath: meta, devicePath: rig.pathOf('sha'), target: layer })
  try {
    for (const [name, content] of contents) assert.ok((await readFile(join(layer, name))).equals(content), name)
  } finally {
    await unmount(layer)
  }
})
