/** The units for systemd say what they must, and systemd reads them. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { readConfig } from '../../../src/config.ts'
import { readGatewayConfig } from '../../../src/gateway-config.ts'

const units = new URL('../../../deploy/systemd/', import.meta.url)
const names = ['berth.service', 'berth-gateway.service'] as const
const read = (name: string): string => readFileSync(new URL(name, units), 'utf8')

/** Every setting, the last of each name. */
function settingsOf (name: string): Map<string, string> {
  return new Map([...read(name).matchAll(/^(\w+)=(.*)$/gm)].map(([, key = '', value = '']) => [key, value]))
}

function seconds (text = ''): number {
  const [, count = '', unit = ''] = /^(\d+)(min)?$/.exec(text) ?? []
  return Number(count) * (unit === 'min' ? 60 : 1)
}

test('a host\'s service leaves its sandboxes alone, and is not cut off while it empties itself', () => {
  const settings = settingsOf('berth.service')
  const config = readConfig({}, {})
  for (const [name, value] of Object.entries({ Type: 'notify', KillMode: 'process', Restart: 'always', RuntimeDirectoryPreserve: 'yes', Delegate: 'yes', TasksMax: 'infinity' })) assert.equal(settings.get(name), value, name)
  assert.ok(seconds(settings.get('TimeoutStopSec')) * 1000 >= config.shutdownTimeoutMs + config.shutdownGraceMs + 60_000)
  assert.ok(Number(settings.get('WatchdogSec')) >= 30)
  // Mounts of a private namespace would vanish with the daemon.
  for (const name of settings.keys()) assert.doesNotMatch(name, /^(Protect|Private|ReadOnly|ReadWrite|Inaccessible|Bind|TemporaryFileSystem)/)
  assert.equal(config.stateDir, `/var/lib/${settings.get('StateDirectory')}`)
  assert.equal(config.runDir, `/run/${settings.get('RuntimeDirectory')}`)
})

test('a gateway\'s service is nobody, and may write nowhere', () => {
  const settings = settingsOf('berth-gateway.service')
  for (const [name, value] of Object.entries({ Type: 'notify', DynamicUser: 'yes', ProtectSystem: 'strict', NoNewPrivileges: 'yes', CapabilityBoundingSet: '' })) assert.equal(settings.get(name), value, name)
})

test('the examples of settings are settings', () => {
  for (const [name, read_] of [['berth.env.example', readConfig], ['gateway.env.example', readGatewayConfig]] as const) {
    const given = Object.fromEntries([...read(name).matchAll(/^#(BERTH_\w+)=(.+)$/gm)].map(([, key = '', value = '']) => [key, value]))
    assert.ok(Object.keys(given).length > 3, name)
    const asked = new Set<string>()
    read_({}, new Proxy(given, { get: (target, key) => { asked.add(String(key)); return target[String(key)] } }))
    assert.deepEqual(Object.keys(given).filter(key => !asked.has(key)), [], name)
  }
})

test('systemd finds nothing wrong with them', t => {
  if (spawnSync('systemd-analyze', ['--version']).status !== 0) return t.skip('systemd-analyze is not here')
  const dir = mkdtempSync(join(tmpdir(), 'berth-units-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  // Where they are installed is not here.
  for (const name of names) writeFileSync(join(dir, name), read(name).replaceAll('/opt/berth/bin/berth', '/bin/true'))
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', ...names.map(name => join(dir, name))], { encoding: 'utf8', timeout: 60_000 })
  assert.equal(stderr, '')
  assert.equal(status, 0)
})
