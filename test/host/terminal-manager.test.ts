/** Terminals on real runtimes and a real pty-host: what they promise whatever ends first. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { suite, test } from 'node:test'
import { buildTerminalRig, soon } from '../support/terminal-rig.ts'

const box = '/.berth/busybox'

// Each has a container and a pty-host of its own, and waits more than it works.
suite('terminals', { concurrency: 4 }, () => {
  for (const runtime of ['runsc', 'runc'] as const) {
    test(`a program has a real terminal (${runtime})`, async t => {
      const rig = await buildTerminalRig(t, runtime)
      const terminal = await rig.create({ argv: ['sh', '-c', `${box} stty size; read line; echo "$TERM $COLORTERM $line"; read line; ${box} stty size; exit 5`], cols: 101, rows: 33, name: 'mine' })
      assert.equal(terminal.status, 'running')
      assert.equal(terminal.name, 'mine')
      const { viewer, attachment, run } = rig.attach(terminal.id, { since: 0 })
      assert.equal(rig.activities(), 1)
      await attachment.write(Buffer.from('word\n'))
      await soon(() => viewer.output.includes('xterm-256color truecolor word'), 'it reads')
      assert.match(viewer.output, /33 101/, 'it has its size from the start')
      await attachment.resize(90, 20)
      await attachment.write(Buffer.from('\n'))
      await run
      assert.match(viewer.output, /20 90/)
      assert.deepEqual(viewer.exit, { type: 'exit', reason: 'exited', exitCode: 5 })
      const ended = rig.terminals.get(rig.sandboxId, terminal.id)
      assert.equal(ended.status, 'ended')
      assert.equal(ended.cols, 90)
      assert.deepEqual(rig.events.map(({ type }) => type), ['terminal.started', 'terminal.ended'])
      // What it wrote can be read for as long as it is kept.
      const later = rig.attach(terminal.id, { role: 'read', since: 0 })
      await later.run
      assert.equal(later.viewer.receivedBytes, ended.output.endOffset)
    })

    test(`what the runtime refuses is refused at once, and leaves nothing (${runtime})`, async t => {
      const rig = await buildTerminalRig(t, runtime)
      await assert.rejects(rig.create({ argv: ['no-such-program'] }), { kind: 'invalid_argument', code: 'command_not_found' })
      await assert.rejects(rig.create({ argv: ['sh'], cwd: '/nowhere' }), { kind: 'invalid_argument', code: 'working_dir_not_found' })
      await assert.rejects(rig.create({ argv: ['/.berth'] }), { kind: 'invalid_argument', code: 'command_not_executable' })
      assert.deepEqual(rig.terminals.list(rig.sandboxId, {}), { items: [] })
      assert.deepEqual(await readdir(rig.places.sandbox(rig.sandboxId).terminalsDir), [])
      assert.deepEqual(rig.events, [])
    })

    test(`a removal hangs up, kills who does not mind with its children, and leaves nothing (${runtime})`, async t => {
      const rig = await buildTerminalRig(t, runtime)
      const polite = await rig.create({ argv: ['sh', '-c', 'trap "echo bye; exit 0" HUP; while :; do sleep 0.05; done'] })
      const stubborn = await rig.create({ argv: ['sh', '-c', 'trap "" HUP TERM; sh -c "trap \'\' HUP; sleep 4321" & echo begun; sleep 4321'] })
      const { viewer, run } = rig.attach(polite.id)
      const looking = rig.attach(stubborn.id, { since: 0 })
      await soon(() => looking.viewer.output.includes('begun'), 'it runs')
      await Promise.all([rig.terminals.remove(rig.sandboxId, polite.id), rig.terminals.remove(rig.sandboxId, stubborn.id)])
      await Promise.all([run, looking.run])
      assert.match(viewer.output, /bye/)
      assert.equal(viewer.exit?.type === 'exit' && viewer.exit.reason, 'deleted')
      assert.equal(looking.viewer.exit?.type === 'exit' && looking.viewer.exit.reason, 'deleted')
      assert.throws(() => rig.terminals.get(rig.sandboxId, polite.id), { code: 'terminal_not_found' })
      assert.deepEqual(await readdir(rig.places.sandbox(rig.sandboxId).terminalsDir), [])
      await soon(async () => !(await rig.inside(`${box} ps -o args`)).includes('4321'), 'nothing of it runs')
    })

    test(`a pty-host that is killed ends its terminals and what ran at them, and the next takes new ones (${runtime})`, async t => {
      const rig = await buildTerminalRig(t, runtime)
      const terminal = await rig.create({ argv: ['sh', '-c', 'trap "" HUP; echo begun; while :; do sleep 1.2345; done'] })
      const { viewer, run } = rig.attach(terminal.id, { since: 0 })
      await soon(() => viewer.output.includes('begun'), 'it runs')
      const [pid] = await rig.ptyHosts()
      assert.ok(pid)
      process.kill(pid, 'SIGKILL')
      await run
      assert.deepEqual(viewer.exit, { type: 'exit', reason: 'pty_host_lost' })
      await soon(async () => !(await rig.inside(`${box} ps -o args`)).includes('begun'), 'the program is gone')
      const next = await rig.create({ argv: ['sh', '-c', 'echo again'] })
      const again = rig.attach(next.id, { since: 0 })
      await again.run
      assert.match(again.viewer.output, /again/)
      assert.notEqual((await rig.ptyHosts())[0], pid)
    })
  }

  test('a burst at the exit is complete before the exit is told', { timeout: 60_000 }, async t => {
    const rig = await buildTerminalRig(t, 'runsc')
    await Promise.all(Array.from({ length: 12 }, async () => {
      const { id } = await rig.create({ argv: ['sh', '-c', `read line; ${box} seq 1 20000`] })
      const { viewer, attachment, run } = rig.attach(id)
      await soon(() => viewer.events.length >= 2, 'it is attached')
      await attachment.write(Buffer.from('\n'))
      await run
      assert.ok(viewer.output.endsWith('\r\n19999\r\n20000\r\n'), viewer.output.slice(-50))
      assert.equal(viewer.events.at(-1)?.type, 'exit')
      await rig.terminals.remove(rig.sandboxId, id)
    }))
  })

  test('whoever comes back has every byte once, across daemons', { timeout: 60_000 }, async t => {
    const rig = await buildTerminalRig(t, 'runsc')
    const { id } = await rig.create({ argv: ['sh', '-c', `i=0; while [ $i -lt 40 ]; do ${box} seq $((i * 500 + 1)) $((i * 500 + 500)); i=$((i + 1)); sleep 0.05; done; exit 4`] })
    let output = ''
    let hasEnded = false
    for (let round = 0; !hasEnded; round++) {
      const { viewer, run, abort } = rig.attach(id, { since: output.length, role: 'read' })
      await soon(() => viewer.receivedBytes > 3000 + round * 500 || viewer.exit !== undefined, 'it goes on')
      abort()
      await run
      output += viewer.output
      hasEnded = viewer.exit !== undefined
      if (hasEnded) assert.deepEqual(viewer.exit, { type: 'exit', reason: 'exited', exitCode: 4 })
      if (round % 4 === 3) await rig.restart()
    }
    assert.equal(output, Array.from({ length: 20_000 }, (_value, index) => `${index + 1}\r\n`).join(''))
  })

  test('an end that nobody was there to see is told by the next daemon', async t => {
    const rig = await buildTerminalRig(t, 'runsc')
    const seen = await rig.create({ argv: ['sh', '-c', 'sleep 0.3; echo last; exit 9'] })
    const lost = await rig.create({ argv: ['sleep', '1000'] })
    await rig.terminals.close()
    await soon(async () => (await readdir(rig.places.terminal(rig.sandboxId, seen.id).dir)).includes('end.json'), 'it has ended')
    const [pid] = await rig.ptyHosts()
    process.kill(pid ?? 0, 'SIGKILL')
    await soon(async () => (await rig.ptyHosts()).length === 0, 'the pty-host is gone')
    await rig.restart()
    assert.deepEqual({ ...rig.terminals.get(rig.sandboxId, seen.id).end, at: '' }, { reason: 'exited', exitCode: 9, at: '' })
    assert.equal(rig.terminals.get(rig.sandboxId, lost.id).end?.reason, 'pty_host_lost')
    assert.ok(!(await rig.inside(`${box} ps -o args`)).includes('sleep 1000'))
    const [{ viewer, run }, late] = [rig.attach(seen.id, { since: 0 }), rig.attach(seen.id)]
    await Promise.all([run, late.run])
    assert.equal(viewer.output, 'last\r\n')
    // The pty-host may have been killed before it had kept the last screen: then all there is to show is what was written.
    const screens = late.viewer.events.map(event => event.type === 'screen' ? event.data : '')
    assert.match(screens.join('') + late.viewer.output, /^last/)
  })

  test('one that is idle is ended, and not while somebody looks, writes or the sandbox is paused', async t => {
    const rig = await buildTerminalRig(t, 'runsc')
    const { id } = await rig.create({ argv: ['sh', '-c', 'read line; echo $line; sleep 1000'], idleTimeoutMs: 5000 })
    const { attachment, abort, run } = rig.attach(id)
    const status = () => rig.terminals.get(rig.sandboxId, id)
    await rig.terminals.sweep(Date.now() + 6000)
    await attachment.write(Buffer.from('x\n'))
    abort()
    await run
    rig.setStatus('paused')
    await rig.terminals.sweep(Date.now() + 60_000)
    rig.setStatus('running')
    await rig.terminals.sweep(Date.now() + 64_000)
    assert.equal(status().status, 'running')
    await rig.terminals.sweep(Date.now() + 70_000)
    await soon(() => status().end?.reason === 'idle', 'it is ended')
  })

  test('readers are refused what only writers may, and what has ended takes nothing', async t => {
    const rig = await buildTerminalRig(t, 'runsc')
    const { id } = await rig.create({ argv: ['sh', '-c', 'read line'] })
    const reader = rig.attach(id, { role: 'read' })
    await assert.rejects(reader.attachment.write(Buffer.from('x')), { kind: 'permission_denied', code: 'read_only' })
    await assert.rejects(reader.attachment.resize(10, 10), { code: 'read_only' })
    const writer = rig.attach(id, { cols: 70, rows: 30 })
    await soon(() => rig.terminals.get(rig.sandboxId, id).cols === 70, 'its size is taken')
    assert.deepEqual(rig.terminals.get(rig.sandboxId, id).viewers, { write: 1, read: 1 })
    await writer.attachment.write(Buffer.from('\n'))
    await Promise.all([writer.run, reader.run])
    await assert.rejects(writer.attachment.write(Buffer.from('x')), { kind: 'conflict', code: 'terminal_ended' })
    await assert.rejects(rig.terminals.update(rig.sandboxId, id, { cols: 10, rows: 10 }), { code: 'terminal_ended' })
    assert.equal((await rig.terminals.update(rig.sandboxId, id, { name: 'old' })).name, 'old')
    assert.throws(() => rig.attach(id, { since: 1e9 }), { code: 'invalid_offset' })
    assert.ok(reader.viewer.events.some(event => event.type === 'resize' && event.cols === 70) || reader.viewer.events.some(event => event.type === 'ready' && event.cols === 70))
  })
})
