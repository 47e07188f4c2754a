import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { CgroupManager, parseCgroupLayout } from '../../../src/host/cgroup.ts'

const v1 = [
  '24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw',
  '31 24 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755',
  '32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct',
  '36 31 0:33 / /sys/fs/cgroup/memory rw,nosuid shared:10 - cgroup cgroup rw,memory',
  '39 31 0:36 / /sys/fs/cgroup/pids rw,nosuid shared:11 - cgroup cgroup rw,pids',
  '40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd',
].join('\n')
const unifiedBeside = '41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw'
const v2 = '29 23 0:25 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot'

test('version 1 is found by the controllers of each mount, together or apart', () => {
  const layout = parseCgroupLayout(v1)
  assert.equal(layout?.version, 1)
  assert.deepEqual(Object.fromEntries(layout?.mounts ?? []), {
    cpu: '/sys/fs/cgroup/cpu,cpuacct',
    cpuacct: '/sys/fs/cgroup/cpu,cpuacct',
    memory: '/sys/fs/cgroup/memory',
    pids: '/sys/fs/cgroup/pids',
  })
})

test('a hybrid host is version 1: the unified hierarchy there has no controllers', () => {
  assert.equal(parseCgroupLayout(`${unifiedBeside}\n${v1}`)?.version, 1)
  const layout = parseCgroupLayout(`${v1}\n${unifiedBeside}`)
  assert.equal(layout?.version, 1)
  assert.deepEqual(layout.others, ['/sys/fs/cgroup/systemd', '/sys/fs/cgroup/unified'], 'where runc makes groups too')
})

test('version 2 is one mount', () => {
  const layout = parseCgroupLayout(v2)
  assert.equal(layout?.version, 2)
  assert.deepEqual([...layout?.mounts.values() ?? []], ['/sys/fs/cgroup'])
})

test('a host without the controllers has no layout', () => {
  assert.equal(parseCgroupLayout(''), undefined)
  assert.equal(parseCgroupLayout(v1.split('\n').filter(line => !line.includes('memory')).join('\n')), undefined)
  assert.equal(parseCgroupLayout('nonsense\n\n - \n'), undefined)
})

test('limits are written in the words of version 1', async t => {
  const { root, manager } = await build(t, { version: 1 })
  await manager.create('sbx_1', { cpuMillis: 300, memoryBytes: 1000, pids: 9 })
  const read = (path: string) => readFile(join(root, path), 'latin1')
  assert.equal(await read('memory/berth/h/sbx_1/memory.limit_in_bytes'), '1000')
  assert.equal(await read('cpu/berth/h/sbx_1/cpu.cfs_quota_us'), '30000')
  assert.equal(await read('cpu/berth/h/sbx_1/cpu.cfs_period_us'), '100000')
  assert.equal(await read('pids/berth/h/sbx_1/pids.max'), '9')
})

test('limits are written in the words of version 2, and the whole group ends when memory runs out', async t => {
  const { root, manager } = await build(t, { version: 2 })
  await manager.create('sbx_1', { cpuMillis: 300, memoryBytes: 1000, pids: 9 })
  const read = (name: string) => readFile(join(root, 'berth/h/sbx_1', name), 'latin1')
  assert.equal(await read('memory.max'), '1000')
  assert.equal(await read('memory.oom.group'), '1')
  assert.equal(await read('cpu.max'), '30000 100000')
  assert.equal(await read('pids.max'), '9')
})

test('a group that exists is refused: its name would not be ours alone', async t => {
  const { manager } = await build(t, { version: 2 })
  await manager.create('sbx_1', { cpuMillis: 300, memoryBytes: 1000, pids: 9 })
  await assert.rejects(manager.create('sbx_1', { cpuMillis: 300, memoryBytes: 1000, pids: 9 }), { code: 'EEXIST' })
})

test('usage is the same in the words of both versions', async t => {
  const files = {
    1: { 'memory/berth/h/sbx_1/memory.usage_in_bytes': '2000\n', 'memory/berth/h/sbx_1/memory.max_usage_in_bytes': '3000\n', 'memory/berth/h/sbx_1/memory.oom_control': 'oom_kill_disable 0\noom_kill 1\n', 'pids/berth/h/sbx_1/pids.current': '4\n', 'cpuacct/berth/h/sbx_1/cpuacct.usage': '1500000000\n' },
    2: { 'berth/h/sbx_1/memory.current': '2000\n', 'berth/h/sbx_1/memory.peak': '3000\n', 'berth/h/sbx_1/memory.events': 'oom 1\noom_kill 1\n', 'berth/h/sbx_1/pids.current': '4\n', 'berth/h/sbx_1/cpu.stat': 'usage_usec 1500000\nuser_usec 1000000\n' },
  }
  for (const version of [1, 2] as const) {
    const { root, manager } = await build(t, { version })
    await manager.create('sbx_1', { cpuMillis: 300, memoryBytes: 1000, pids: 9 })
    for (const [path, text] of Object.entries(files[version])) await writeFile(join(root, path), text)
    assert.deepEqual(await manager.usage('sbx_1'), { memoryBytes: 2000, peakMemoryBytes: 3000, oomKills: 1, pids: 4, cpuTimeMs: 1500 })
  }
})

test('a group that is gone has no usage, no processes, and is removed already', async t => {
  const { manager } = await build(t, { version: 1 })
  assert.equal(await manager.usage('sbx_none'), undefined)
  assert.deepEqual(await manager.processes('sbx_none'), [])
  await manager.remove('sbx_none')
  await manager.killAll('sbx_none')
  assert.equal(await manager.exists('sbx_none'), false)
})

/** A manager over ordinary directories in the place of cgroup mounts. */
async function build (t: { after: (release: () => Promise<void>) => void }, { version }: { version: 1 | 2 }) {
  const root = await mkdtemp(join(tmpdir(), 'berth-cgroup-'))
  t.after(() => rm(root, { recursive: true }))
  const mounts = version === 1
    ? new Map([['memory', join(root, 'memory')], ['cpu', join(root, 'cpu')], ['cpuacct', join(root, 'cpuacct')], ['pids', join(root, 'pids')]] as const)
    : new Map([['memory', root]] as const)
  for (const mount of mounts.values()) await mkdir(join(mount, 'berth/h'), { recursive: true })
  return { root, manager: new CgroupManager({ layout: { version, mounts, others: [] }, parent: '/berth/h' }) }
}
