import assert from 'node:assert/strict'
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { test, type TestContext } from 'node:test'
import { Header } from 'tar'
import { extractTree, type ExtractOptions } from '../../../src/cli/tree-extractor.ts'
import { packTree } from '../../../src/cli/tree-packer.ts'

interface Entry {
  path: string
  type?: 'File' | 'Directory' | 'SymbolicLink' | 'Link' | 'FIFO' | 'CharacterDevice'
  text?: string
  linkpath?: string
  mode?: number
}

function tarOf (entries: Entry[]): Readable {
  const blocks = entries.flatMap(({ path, type = 'File', text = '', linkpath = '', mode = type === 'Directory' ? 0o755 : 0o644 }) => {
    const header = new Header({ path, type, size: text.length, linkpath, mode, mtime: new Date(1e12), uid: 4242, gid: 4242 })
    header.encode()
    const body = Buffer.alloc(Math.ceil(text.length / 512) * 512)
    body.write(text)
    return [header.block!, body]
  })
  return Readable.from([Buffer.concat([...blocks, Buffer.alloc(1024)])], { objectMode: false })
}

async function build (t: TestContext): Promise<{ dir: string, target: string, extract: (entries: Entry[], other?: Partial<ExtractOptions>) => ReturnType<typeof extractTree> }> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-tree-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const target = join(dir, 'target')
  return { dir, target, extract: (entries, other) => extractTree(tarOf(entries), { target, isNamed: true, type: 'directory', ...other }) }
}

const top: Entry = { path: 'top/', type: 'Directory' }

for (const [name, entries] of Object.entries<Entry[]>({
  'a path with ..': [top, { path: 'top/../../escaped' }],
  'an absolute path': [top, { path: '/tmp/berth-escaped' }],
  'a top of ..': [{ path: '../', type: 'Directory' }, { path: '../escaped' }],
  'a file through a link of its own': [top, { path: 'top/way', type: 'SymbolicLink', linkpath: '..' }, { path: 'top/way/escaped' }],
  'a hard link to what is outside': [top, { path: 'top/hard', type: 'Link', linkpath: 'top/../../outside' }],
  'a hard link to a link': [top, { path: 'top/soft', type: 'SymbolicLink', linkpath: '../outside' }, { path: 'top/hard', type: 'Link', linkpath: 'top/soft' }],
  'no directory at its top': [{ path: 'top' }],
  'a link at its top': [{ path: 'top', type: 'SymbolicLink', linkpath: '..' }, { path: 'top/escaped' }],
  nothing: [],
})) {
  test(`an archive with ${name} writes nothing outside, and is refused`, async t => {
    const { dir, extract } = await build(t)
    await writeFile(join(dir, 'outside'), 'mine')
    await assert.rejects(extract(entries), { name: 'BerthError' })
    assert.deepEqual((await readdir(dir)).filter(one => one !== 'target'), ['outside'])
    assert.equal(await readFile(join(dir, 'outside'), 'utf8'), 'mine')
    assert.equal((await lstat(join(dir, 'outside'))).nlink, 1)
  })
}

test('nothing is written through a link that was there before', async t => {
  const { dir, target, extract } = await build(t)
  await mkdir(join(dir, 'elsewhere'))
  await mkdir(target)
  await symlink('../elsewhere', join(target, 'way'))
  await symlink('../outside', join(target, 'file'))
  await writeFile(join(dir, 'outside'), 'mine')
  await extract([top, { path: 'top/file', text: 'new' }])
  assert.equal(await readFile(join(dir, 'outside'), 'utf8'), 'mine')
  assert.equal(await readFile(join(target, 'file'), 'utf8'), 'new')
  await assert.rejects(extract([top, { path: 'top/way/', type: 'Directory' }, { path: 'top/way/x' }]), { code: 'path_exists' })
  await assert.rejects(extract([top, { path: 'top/way/x' }]), { code: 'path_exists' })
  assert.deepEqual(await readdir(join(dir, 'elsewhere')), [])
  await symlink('elsewhere', join(dir, 'linked'))
  await assert.rejects(extract([top, { path: 'top/x' }], { target: join(dir, 'linked'), isNamed: false }), { code: 'path_exists' })
})

test('devices and FIFOs are left out, setuid bits taken off, and nobody else is made owner', async t => {
  const { target, extract } = await build(t)
  const { leftOut } = await extract([
    top, { path: 'top/pipe', type: 'FIFO' }, { path: 'top/null', type: 'CharacterDevice' }, { path: 'top/su', mode: 0o6755, text: 'x' }, { path: 'top/sticky/', type: 'Directory', mode: 0o1777 },
  ])
  assert.equal(leftOut, 2)
  assert.deepEqual((await readdir(target)).sort(), ['sticky', 'su'])
  const facts = await lstat(join(target, 'su'))
  assert.deepEqual([facts.mode & 0o7777, facts.uid], [0o755, process.getuid?.()])
  assert.equal((await lstat(join(target, 'sticky'))).mode & 0o7777, 0o777)
})

test('one file goes to the name that was asked for, and to no other', async t => {
  const { dir, target, extract } = await build(t)
  await extract([{ path: 'evil-name', text: 'hello', mode: 0o640 }], { type: 'file' })
  assert.equal(await readFile(target, 'utf8'), 'hello')
  assert.equal((await lstat(target)).mode & 0o777, 0o640)
  await assert.rejects(extract([{ path: 'a', text: '1' }, { path: 'b', text: '2' }], { type: 'file' }), { code: 'invalid_archive' })
  await assert.rejects(extract([{ path: 'a/', type: 'Directory' }], { type: 'file' }), { code: 'invalid_archive' })
  assert.deepEqual(await readdir(dir), ['target'])
})

test('an archive that is cut is refused', async t => {
  const { target } = await build(t)
  const whole = await tarOf([top, { path: 'top/file', text: 'x'.repeat(5000) }]).toArray() as Buffer[]
  await assert.rejects(extractTree(Readable.from([whole[0]!.subarray(0, 3000)], { objectMode: false }), { target, isNamed: true, type: 'directory' }), { code: 'invalid_archive' })
})

test('a tree comes out as it was packed: modes, times, links, and names of every kind', async t => {
  const { dir, target } = await build(t)
  const source = join(dir, 'source')
  await mkdir(join(source, 'sub dir'), { recursive: true })
  const odd = 'line\nbreak \u001b[31m @x'
  await writeFile(join(source, odd), 'odd', { mode: 0o600 })
  await writeFile(join(source, '@at'), 'at')
  await writeFile(join(source, 'sub dir', 'big'), Buffer.alloc(3_000_000, 7), { mode: 0o755 })
  await symlink('/etc/hostname', join(source, 'absolute'))
  await symlink('../../..', join(source, 'sub dir', 'up'))
  const result = await extractTree(packTree({ source, isDirectory: true, name: 'other' }), { target, isNamed: true, type: 'directory' })
  assert.deepEqual([result.files, result.bytes], [3, 3_000_005])
  assert.deepEqual((await readdir(target)).sort(), (await readdir(source)).sort())
  assert.equal(await readFile(join(target, odd), 'utf8'), 'odd')
  assert.equal(await readlink(join(target, 'absolute')), '/etc/hostname')
  assert.equal(await readlink(join(target, 'sub dir', 'up')), '../../..')
  for (const one of [odd, 'sub dir', 'sub dir/big']) {
    const [here, there] = [await lstat(join(source, one)), await lstat(join(target, one))]
    assert.deepEqual([there.mode, Math.floor(there.mtimeMs / 1000)], [here.mode, Math.floor(here.mtimeMs / 1000)], one)
  }
})
