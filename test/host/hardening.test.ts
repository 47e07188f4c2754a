/** What a sandbox cannot see, reach or change, tried from inside. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Sandbox, SandboxCreate } from '../../src/schemas/sandbox.ts'
import { TestDaemon, type Teardown } from '../support/test-daemon.ts'

const secret = 'hunter2-of-the-host'
const odd: Record<string, string> = { EQUALS: 'a=b==c', LINES: 'one\ntwo\n', WORDS: 'ünï ☃ 𝄞', QUOTES: '"\'`$(id)\\', EMPTY: '', SPACE: ' ' }

for (const runtime of ['runsc', 'runc']) {
  test(`${runtime}: nothing of the host's environment is inside`, async t => {
    const { sh, daemon, id } = await build(t, { runtime })
    const { stdout } = await daemon.exec(id, ['env'])
    assert.deepEqual(stdout.trim().split('\n').map(line => line.split('=')[0]).sort(), ['HOME', 'HOSTNAME', 'PATH'])
    const everywhere = await sh('cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline', '0')
    assert.ok(!everywhere.stdout.includes(secret))
    assert.ok(!everywhere.stdout.includes(daemon.dir), 'nor of its directories')
  })

  test(`${runtime}: a program runs as uid 1000 without a capability, and cannot gain one`, async t => {
    const { sh, daemon, id } = await build(t, { runtime })
    const status = readStatus((await sh('cat /proc/self/status')).stdout)
    assert.equal(status['Uid'], '1000 1000 1000 1000')
    assert.equal(status['Gid'], '1000 1000 1000 1000')
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd']) assert.match(status[set] ?? '', /^0+$/, set)
    // gVisor does not show it.
    if (runtime === 'runc') assert.deepEqual([status['NoNewPrivs'], status['Seccomp']], ['1', '2'])
    const made = await sh('cp /.berth/init /workspace/as-root && chmod 4755 /workspace/as-root', '0')
    assert.equal(made.exitCode, 0, made.stderr)
    const detached = await daemon.request('POST', `/v1/sandboxes/${id}/execs`, { argv: ['/workspace/as-root', '--', 'sleep', '600'], detach: true })
    assert.equal(detached.status, 201, detached.text)
    const seen = await sh('for p in /proc/[0-9]*; do grep -q ^/workspace/as-root $p/cmdline 2>/dev/null && cat $p/status; done', '0')
    assert.match(readStatus(seen.stdout)['Uid'] ?? '', /^1000 1000 /, 'a set-uid program of root is nobody\'s way up')
    assert.notEqual((await sh('su -c id')).exitCode, 0)
  })

  test(`${runtime}: root inside is confined too`, async t => {
    const { sh } = await build(t, { runtime })
    const status = readStatus((await sh('cat /proc/self/status', '0')).stdout)
    const chownDacFownerFsetidKillSetgidSetuidBind = '00000000000004fb'
    for (const set of ['CapPrm', 'CapEff', 'CapBnd']) assert.equal(status[set], chownDacFownerFsetidKillSetgidSetuidBind, set)
    for (const command of [
      'mount -t tmpfs none /tmp', 'mount --bind / /tmp', 'mount -o remount,rw /.berth', 'umount /.berth', 'umount /proc', 'chroot / true',
      '! date -s 2020-01-01 2>&1 | grep -q can.t.set', 'hostname other', 'ip link add d0 type dummy', 'unshare -m true', 'nsenter -t 1 -m true',
      'touch /.berth/more', 'echo x > /.berth/init', 'rm /.berth/busybox',
      'echo 1 > /proc/sys/kernel/core_pattern', 'echo 1 > /proc/sys/vm/overcommit_memory', 'echo 1 > /proc/sys/kernel/hostname', 'echo b > /proc/sysrq-trigger',
      'mknod /workspace/disk b 8 0 && cat /workspace/disk', 'head -c 1 /dev/mem', 'head -c 1 /proc/kcore | grep -q .',
    ]) assert.notEqual((await sh(command, '0')).exitCode, 0, command)
  })

  test(`${runtime}: neither the host's processes nor its network are there`, async t => {
    const { sh } = await build(t, { runtime })
    let connections = 0
    const server = createServer(socket => {
      connections++
      socket.destroy()
    }).listen(0, '127.0.0.1')
    t.after(async () => { server.close() })
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    assert.notEqual((await sh(`nc -w 2 127.0.0.1 ${port} < /dev/null`)).exitCode, 0)
    assert.equal(connections, 0)
    const interfaces = (await sh('cat /proc/net/dev')).stdout.split('\n').flatMap(line => /^\s*([^\s:|]+):/.exec(line)?.[1] ?? [])
    assert.deepEqual(interfaces.sort(), ['eth0', 'lo'])
    const processes = (await sh('echo /proc/[0-9]*', '0')).stdout.trim().split(' ')
    assert.ok(processes.length <= 3, `init, the shell and no other: ${processes.join(' ')}`)
    if (!processes.includes(`/proc/${process.pid}`)) assert.notEqual((await sh(`kill -0 ${process.pid}`, '0')).exitCode, 0)
  })

  test(`${runtime}: the environment arrives as it was given`, async t => {
    const { daemon, id } = await build(t, { runtime, env: odd })
    const script = Object.keys(odd).map(name => `printf '%s|' "$${name}"`).join(';')
    const expected = Object.values(odd).map(value => `${value}|`).join('')
    assert.equal((await daemon.exec(id, ['sh', '-c', script])).stdout, expected)
    const other = await build(t, { runtime })
    assert.equal((await other.daemon.exec(other.id, ['sh', '-c', script], { env: odd })).stdout, expected)
  })

  test(`${runtime}: an exec runs as the user of the image that it names`, async t => {
    const { daemon, id } = await build(t, { runtime })
    assert.equal((await daemon.exec(id, ['id', '-u'], { user: 'root' })).stdout, '0\n')
    assert.equal((await daemon.exec(id, ['id', '-u'], { user: 'nobody' })).stdout, '65534\n')
    assert.equal((await daemon.exec(id, ['sh', '-c', 'id -u; id -g'], { user: '4321:8765' })).stdout, '4321\n8765\n')
  })

  test(`${runtime}: sandboxes of one image do not see each other's files, and the image stays as it was`, async t => {
    const rootfsDir = await makeRootfs(t, 'a b;$(id)\'"-image')
    const before = await snapshot(rootfsDir)
    const first = await build(t, { runtime, image: `dir:${rootfsDir}`, user: '0' })
    const second = await first.daemon.create({ runtime, image: `dir:${rootfsDir}`, user: '0' })
    const write = 'echo mine > /workspace/mine; echo mine > /etc/mine; echo mine > /etc/issue; rm /bin/true; chmod 777 /bin; mkdir /new'
    assert.equal((await first.sh(write)).exitCode, 0)
    const { stdout } = await first.daemon.exec(second.id, ['sh', '-c', 'cat /etc/issue; ls /workspace; ls /new; ls /etc/mine; ls /bin/true'])
    assert.equal(stdout, 'as it was\n/bin/true\n')
    assert.deepEqual(await snapshot(rootfsDir), before)
  })

  test(`${runtime}: an image whose directories are links to the host leads nowhere`, async t => {
    for (const name of ['etc', 'workspace', '.berth', 'proc', 'tmp', 'dev', 'sys', 'root']) {
      const victim = await makeVictim(t)
      const before = await snapshot(victim)
      const rootfsDir = await makeRootfs(t, 'hostile')
      await rm(join(rootfsDir, name), { recursive: true, force: true })
      await symlink(victim, join(rootfsDir, name))
      const daemon = await TestDaemon.start(t)
      const answer = await daemon.request<Sandbox>('POST', '/v1/sandboxes', { image: `dir:${rootfsDir}`, runtime, user: '0' })
      // A runtime may well refuse to mount over a link.
      if (answer.status === 201) {
        const script = `cat /${name}/secret; cat ${victim}/secret; echo more > /${name}/secret; echo more > /${name}/more; echo more > ${victim}/more; rm -rf /${name}/dir`
        const { stdout } = await daemon.exec(answer.body.id, ['/bin/sh', '-c', script], { cwd: '/' })
        assert.ok(!stdout.includes(secret), `/${name} does not lead to the host`)
        await daemon.remove(answer.body.id)
      }
      assert.deepEqual(await snapshot(victim), before, `nothing of the host is changed through /${name}`)
    }
  })

  test(`${runtime}: files of every kind, number and depth are deleted with their sandbox`, async t => {
    const { daemon, id, sh } = await build(t, { runtime, user: '0' })
    const made = await sh([
      'cd /workspace', 'mkdir many && cd many && i=0; while [ $i -lt 10000 ]; do : > f$i; i=$((i+1)); done; cd ..',
      'mkdir closed && : > closed/file && chmod 000 closed/file closed', 'mkfifo pipe', ': > -rf', ': > "$(printf "a\\nb")"', ': > "*"', 'ln -s / root-link', 'ln -s loop loop',
      ': > set-uid && chmod 7777 set-uid', 'mkdir deep && cd deep && i=0; while [ $i -lt 1000 ]; do mkdir d && cd d || exit 9; i=$((i+1)); done',
    ].join('\n'))
    assert.equal(made.exitCode, 0, made.stderr)
    await daemon.remove(id)
    assert.deepEqual(await readdir(join(daemon.stateDir, 'sandboxes', id)), ['sandbox.json'])
    assert.deepEqual((await daemon.leftovers()).filter(line => line.includes(id)), [])
  })
}

/** A daemon whose own environment holds a secret, and a sandbox that idles in it. */
async function build (t: Teardown, input: Partial<SandboxCreate>) {
  const daemon = await TestDaemon.start(t, { env: { SECRET: secret } })
  const { id } = await daemon.create(input)
  const sh = (script: string, user?: string) => daemon.exec(id, ['sh', '-c', script], user === undefined ? {} : { user })
  return { daemon, id, sh }
}

/** Lines of /proc/<pid>/status by name. */
function readStatus (text: string): Record<string, string> {
  return Object.fromEntries(text.split('\n').map(line => line.split(':')).map(([name = '', value = '']) => [name, value.trim().replaceAll(/\s+/g, ' ')]))
}

/** A directory of the host that a hostile image wants. */
async function makeVictim (t: Teardown): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'victim-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  await writeFile(join(dir, 'secret'), secret)
  await mkdir(join(dir, 'dir'))
  return dir
}

/** A small root file system as an image: busybox and a few of its names. */
async function makeRootfs (t: Teardown, name: string): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'rootfs-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const rootfsDir = join(dir, name)
  for (const path of ['bin', 'etc', 'workspace', 'proc', 'sys', 'dev', 'tmp']) await mkdir(join(rootfsDir, path), { recursive: true })
  await copyFile('/bin/busybox', join(rootfsDir, 'bin/busybox'))
  await chmod(join(rootfsDir, 'bin/busybox'), 0o755)
  for (const applet of ['sh', 'cat', 'ls', 'rm', 'mkdir', 'chmod', 'true', 'echo']) await symlink('busybox', join(rootfsDir, 'bin', applet))
  await writeFile(join(rootfsDir, 'etc/issue'), 'as it was\n')
  return rootfsDir
}

/** Names and small contents below a directory. */
async function snapshot (dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true, recursive: true })
  const lines = await Promise.all(entries.map(async entry => {
    const path = join(entry.parentPath, entry.name)
    return `${path} ${entry.isFile() && entry.name !== 'busybox' ? await readFile(path, 'utf8') : ''}`
  }))
  return lines.sort()
}
