import { test } from 'node:test'
import assert from 'node:assert/strict'
import { runDoctor, type DoctorParts } from '../../../src/cli/doctor.ts'
import { BerthError } from '../../../src/errors.ts'
import { createHostChecks, findControllers, parseRunscDate, type HostCheck, type HostCheckResult } from '../../../src/services/host/host-checks.ts'
import { isAtLeast, parseVersion, type HostView } from '../../../src/services/host/host-probe.ts'

type Answer = { exitCode?: number, stdout?: string, stderr?: string } | undefined
type BuildOptions = { programs?: Record<string, Answer>, files?: Record<string, string | undefined> } & Partial<HostView>

const mountInfoV1 = [
  '30 23 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory',
  '31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct',
  '32 23 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids',
].join('\n')
const mountInfoV2 = '29 23 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate'

/** A host on which everything is as it should be; `programs` and `files` replace what they name. */
function build ({ programs = {}, files = {}, ...facts }: BuildOptions = {}) {
  const answers: Record<string, Answer> = {
    runsc: { stdout: 'runsc version 0.0~20240729.0\nspec: 1.0.2-dev\n' },
    runc: { stdout: 'runc version 1.1.5+ds1\ncommit: 1.1.5\n' },
    conmon: { stdout: 'conmon version 2.1.6\ncommit: unknown\n' },
    'tini-static': { stdout: 'tini version 0.19.0\n' },
    catatonit: { stdout: 'catatonit version 0.1.7\n' },
    busybox: { stdout: 'BusyBox v1.35.0 (Debian 1:1.35.0-4) multi-call binary.\n' },
    ldd: { exitCode: 1, stderr: '\tnot a dynamic executable\n' },
    umoci: { stdout: 'umoci version 0.4.7+ds\n' },
    'mkfs.ext4': { stderr: 'mke2fs 1.47.0 (5-Feb-2023)\n' },
    ip: { stdout: 'ip utility, iproute2-6.1.0, libbpf 1.1.2\n' },
    'mkfs.erofs': { stdout: 'mkfs.erofs (erofs-utils) 1.8.6\navailable compressors: lz4, zstd\n' },
    gztool: { stderr: '\n  gztool (v1.8.0)\n  GZIP files indexer, compressor and data retriever.\n' },
    nft: { stdout: 'nftables v1.0.6 (Lester Gooch #5)\n' },
    ...programs,
  }
  const texts: Record<string, string | undefined> = {
    '/proc/self/mountinfo': mountInfoV1,
    '/proc/filesystems': 'nodev\tsysfs\nnodev\toverlay\n\text4\n',
    '/dev/fuse': '',
    '/dev/loop-control': '',
    '/proc/sys/net/ipv4/ip_forward': '1\n',
    '/proc/sys/net/ipv6/conf/all/forwarding': '1\n',
    ...files,
  }
  const host: HostView = {
    run: async (file) => {
      const answer = answers[file]
      return answer === undefined ? undefined : { exitCode: 0, stdout: '', stderr: '', ...answer }
    },
    read: async (path) => texts[path],
    exists: async (path) => texts[path] !== undefined,
    tryErofs: async () => ({ ok: true }),
    tryFuse: async () => true,
    tryVeth: async () => {},
    tryNftables: async () => {},
    tryTokenBucket: async () => {},
    listForwardObstacles: async () => [],
    kernelRelease: '6.18.5-generic',
    nodeVersion: '24.21.0',
    uid: 0,
    ...facts,
  }
  const checks = createHostChecks(host)
  const probe = async (name: string): Promise<HostCheckResult> => {
    const check = checks.find((candidate) => candidate.name === name)
    assert.ok(check, `there is a check ${name}`)
    return await check.probe()
  }
  return { checks, probe }
}

test('a host that has everything passes every check and shows the versions', async () => {
  const { checks } = build()
  const results = Object.fromEntries(await Promise.all(checks.map(async ({ name, probe }) => [name, await probe()] as const)))
  for (const [name, { status, problem }] of Object.entries(results)) assert.equal(status, 'ok', `${name}: ${problem}`)
  assert.equal(results.runsc?.version, '20240729')
  assert.equal(results.conmon?.version, '2.1.6')
  assert.equal(results['mkfs.ext4']?.version, '1.47.0')
  assert.equal(results['tini-static']?.version, '0.19.0')
  assert.equal(results['mkfs.erofs']?.version, '1.8.6')
  assert.equal(results.gztool?.version, '1.8.0')
  assert.equal(results.cgroups?.version, 'v1')
})

test('every check says why it is needed and how to mend it, under a name of its own', () => {
  const { checks } = build()
  assert.equal(new Set(checks.map(({ name }) => name)).size, checks.length)
  for (const { name, why, fix } of checks) assert.ok(why.length > 5 && fix.length > 5, name)
})

const wrong: [what: string, check: string, options: BuildOptions, status: HostCheckResult['status'], problem: RegExp][] = [
  ['no runsc', 'runsc', { programs: { runsc: undefined } }, 'missing', /no program runsc/],
  ['the runsc of Debian 12', 'runsc', { programs: { runsc: { stdout: 'runsc version 0.0~20221219.0\n' } } }, 'too_old', /20240701 or later/],
  ['a runsc without a version', 'runsc', { programs: { runsc: { stdout: 'runsc version VERSION_MISSING\n' } } }, 'broken', /does not say its version/],
  ['a runsc that crashes', 'runsc', { programs: { runsc: { exitCode: 139 } } }, 'broken', /exit code 139/],
  ['an old conmon', 'conmon', { programs: { conmon: { stdout: 'conmon version 2.0.25\n' } } }, 'too_old', /2\.1 or later/],
  ['no init', 'tini-static', { programs: { 'tini-static': undefined } }, 'missing', /tini-static/],
  ['no init to idle under', 'catatonit', { programs: { catatonit: undefined } }, 'missing', /catatonit/],
  ['a dynamic busybox', 'busybox', { programs: { ldd: { exitCode: 0, stdout: 'libc.so.6 => /lib/libc.so.6\n' } } }, 'broken', /dynamically linked/],
  ['no busybox', 'busybox', { programs: { busybox: undefined } }, 'missing', /no program busybox/],
  ['no overlay', 'overlayfs', { files: { '/proc/filesystems': 'nodev\tsysfs\n' } }, 'missing', /no overlay/],
  ['no memory controller', 'cgroups', { files: { '/proc/self/mountinfo': mountInfoV2, '/sys/fs/cgroup/cgroup.controllers': 'cpu pids\n' } }, 'missing', /controller memory/],
  ['no fuse', 'fuse', { files: { '/dev/fuse': undefined } }, 'missing', /\/dev\/fuse/],
  ['no mkfs.erofs', 'mkfs.erofs', { programs: { 'mkfs.erofs': undefined } }, 'missing', /no program mkfs\.erofs/],
  ['the mkfs.erofs of Debian 12', 'mkfs.erofs', { programs: { 'mkfs.erofs': { stdout: 'mkfs.erofs 1.5\n' } } }, 'too_old', /1\.8 or later/],
  ['the gztool of Debian 12', 'gztool', { programs: { gztool: { stderr: '\n  gztool (v1.5.1)\n' } } }, 'too_old', /1\.8 or later/],
  ['a kernel that mounts no EROFS file', 'erofs', { kernelRelease: '6.8.0-45-generic' }, 'too_old', /6\.12 or later/],
  ['a kernel without EROFS', 'erofs', { tryErofs: async () => ({ ok: false, why: 'the kernel cannot mount EROFS from files' }) }, 'broken', /cannot mount EROFS/],
  ['a container that may not mount FUSE', 'fuse', { tryFuse: async () => false }, 'broken', /cannot be mounted/],
  ['an old kernel', 'linux', { kernelRelease: '4.9.0-13-amd64' }, 'too_old', /4\.15 or later/],
  ['an old Node', 'node', { nodeVersion: '20.20.2' }, 'too_old', /24\.0 or later/],
  ['a user that is not root', 'root', { uid: 1000 }, 'broken', /uid 1000/],
  ['no ip', 'ip', { programs: { ip: undefined } }, 'missing', /no program ip/],
  ['a kernel without veth', 'veth', { tryVeth: async () => { throw new Error('RTNETLINK answers: Operation not supported') } }, 'broken', /RTNETLINK.*not supported/],
  ['no packet filter', 'libnftables', { tryNftables: async () => { throw new BerthError('unavailable', 'nftables_missing', 'libnftables.so.1 is missing') } }, 'broken', /libnftables\.so\.1 is missing/],
  ['a kernel without a token bucket', 'tbf', { tryTokenBucket: async () => { throw new Error('qdisc kind is unknown') } }, 'broken', /kind is unknown/],
  ['a packet filter that only root may see', 'libnftables', { uid: 1000, tryNftables: async () => assert.fail('it was tried') }, 'broken', /only root/],
  ['a host that does not forward', 'ip_forward', { files: { '/proc/sys/net/ipv4/ip_forward': '0\n' } }, 'broken', /does not forward IPv4: net\.ipv4\.ip_forward is 0/],
  ['a host that forwards IPv4 alone', 'ipv6_forward', { files: { '/proc/sys/net/ipv6/conf/all/forwarding': '0\n' } }, 'broken', /net\.ipv6\.conf\.all\.forwarding is 0/],
  ['a host without IPv6', 'ipv6_forward', { files: { '/proc/sys/net/ipv6/conf/all/forwarding': undefined } }, 'missing', /no IPv6/],
  ['a look that fails', 'nft', { run: async () => { throw new Error('no descriptors left') } }, 'broken', /looking failed/],
]

for (const [what, name, options, status, problem] of wrong) {
  test(`${what} is found and said to be ${status}`, async () => {
    const result = await build(options).probe(name)
    assert.equal(result.status, status)
    assert.match(result.problem ?? '', problem)
  })
}

test('a firewall that drops what sandboxes send is named, with the exact commands that let it pass', async () => {
  const commands = ['iptables -I DOCKER-USER -i bv+ -j ACCEPT', 'iptables -I DOCKER-USER -o bv+ -j ACCEPT']
  const { checks, probe } = build({ listForwardObstacles: async () => [{ chain: 'ip filter FORWARD', commands }] })
  const result = await probe('forward_rules')
  assert.equal(result.status, 'broken')
  assert.match(result.problem ?? '', /policy of ip filter FORWARD/)
  assert.equal(result.fix, `sudo ${commands[0]} && sudo ${commands[1]}`)
  const { text } = await doctor(checks.filter(({ name }) => name === 'forward_rules'))
  assert.match(text, /mend it with: sudo iptables -I DOCKER-USER -i bv\+ -j ACCEPT && sudo/)
})

const found = (name: string, required: boolean, result: HostCheckResult): HostCheck =>
  ({ name, required, why: `${name} is needed`, fix: `install ${name}`, probe: async () => result })

async function doctor (checks: HostCheck[], parts: Partial<DoctorParts> = {}) {
  let text = ''
  const exitCode = await runDoctor({ checks, json: false, write: (piece) => { text += piece }, ...parts })
  return { exitCode, text }
}

test('doctor ends with 0 when everything required is there and the sandbox ran', async () => {
  const selfTest = async () => ({ ok: true, detail: 'gVisor answered', durationMs: 12.3 })
  const { exitCode, text } = await doctor([found('runsc', true, { status: 'ok', version: '20240729' }), found('nft', false, { status: 'missing', problem: 'no nft' })], { selfTest })
  assert.equal(exitCode, 0)
  assert.match(text, /^ok +runsc +20240729/m)
  assert.match(text, /^optional: missing +nft .*no nft\n.*mend it with: install nft/m)
  assert.match(text, /self-test sandbox \(12 ms\): gVisor answered\nThis host is ready/)
})

test('doctor ends with 1, starts no sandbox and names what to mend when something required is wrong', async () => {
  const selfTest = async () => assert.fail('a sandbox was started')
  const { exitCode, text } = await doctor([found('runsc', true, { status: 'too_old', version: '20221219', problem: 'too young' })], { selfTest })
  assert.equal(exitCode, 1)
  assert.match(text, /^too old +runsc/m)
  assert.match(text, /mend runsc, then/)
})

test('doctor ends with 1 when the sandbox fails, and says why', async () => {
  const { exitCode, text } = await doctor([], { selfTest: async () => { throw new Error('the platform is not there') } })
  assert.equal(exitCode, 1)
  assert.match(text, /the platform is not there/)
})

test('doctor answers with one JSON document on demand', async () => {
  const { exitCode, text } = await doctor([found('runsc', true, { status: 'ok' })], { json: true })
  assert.equal(exitCode, 0)
  assert.deepEqual(JSON.parse(text), { ok: true, selfTest: null, checks: [{ name: 'runsc', required: true, why: 'runsc is needed', fix: 'install runsc', status: 'ok' }] })
})

test('nothing is mounted as a try by a user that is not root', async () => {
  const tryErofs = async () => assert.fail('EROFS was tried')
  const tryFuse = async () => assert.fail('FUSE was tried')
  for (const name of ['erofs', 'fuse']) assert.match((await build({ uid: 1000, tryErofs, tryFuse }).probe(name)).problem ?? '', /only root/, name)
})

test('what images need to load lazily is optional, and each says what is lost without it', () => {
  for (const { name, required, why } of build().checks.filter(({ name }) => ['mkfs.erofs', 'gztool', 'erofs', 'fuse'].includes(name))) {
    assert.equal(required, false, name)
    assert.match(why, /; without it (they|images) are (unpacked|fetched whole)/, name)
  }
})

test('a busybox is taken as static on a host without ldd', async () => {
  assert.equal((await build({ programs: { ldd: undefined } }).probe('busybox')).status, 'ok')
})

test('the build date of runsc is read from gVisor\'s and Debian\'s forms', () => {
  assert.equal(parseRunscDate('runsc version release-20250811.0\nspec: 1.1.0\n'), 20250811)
  assert.equal(parseRunscDate('runsc version 0.0~20240729.0\n'), 20240729)
  assert.equal(parseRunscDate('runsc version release-20240729.0-12-gabcdef012345\n'), 20240729)
  assert.equal(parseRunscDate('runsc version 1.2.3'), undefined)
})

test('versions are compared part by part', () => {
  assert.deepEqual(parseVersion('conmon version 2.1.13\n'), [2, 1, 13])
  assert.equal(parseVersion('none'), undefined)
  assert.ok(isAtLeast([2, 1], [2, 1]))
  assert.ok(isAtLeast([10, 0], [9, 9]))
  assert.ok(isAtLeast([3], [2, 9]))
  assert.ok(!isAtLeast([2, 0, 99], [2, 1]))
  assert.ok(!isAtLeast([], [1]))
})

test('controllers are found in version 2, in version 1, and spread over both', () => {
  assert.deepEqual([...findControllers('cpuset cpu io memory pids\n', mountInfoV2)], [['cpu', 'v2'], ['memory', 'v2'], ['pids', 'v2']])
  assert.deepEqual([...findControllers(undefined, mountInfoV1)], [['cpu', 'v1'], ['memory', 'v1'], ['pids', 'v1']])
  assert.deepEqual([...findControllers('', mountInfoV1).keys()], ['cpu', 'memory', 'pids'])
  assert.deepEqual([...findControllers('pids\n', mountInfoV1)], [['cpu', 'v1'], ['memory', 'v1'], ['pids', 'v2']])
  assert.deepEqual([...findControllers(undefined, '')], [])
})
