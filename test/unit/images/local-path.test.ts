import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { locateDirImage } from '../../../src/services/images/dir-image.ts'
import { tempDir } from './temp-dir.ts'

const notAllowed = { kind: 'permission_denied', code: 'image_path_not_allowed' }

function build (t: TestContext) {
  const dir = tempDir(t)
  for (const name of ['allowed/rootfs', 'state/images', 'elsewhere', 'allowed/a:b', 'allowed/a,b', 'allowed/a\\b']) mkdirSync(join(dir, name), { recursive: true })
  const rules = { roots: [join(dir, 'allowed')], privateDirs: [join(dir, 'state')] }
  return { dir, rules, anywhere: { ...rules, roots: ['/'] } }
}

test('a directory below an allowed one is used where it lies', async t => {
  const { dir, rules } = build(t)
  assert.equal(await locateDirImage(join(dir, 'allowed/rootfs'), rules), join(dir, 'allowed/rootfs'))
  symlinkSync(join(dir, 'allowed/rootfs'), join(dir, 'allowed/link'))
  assert.equal(await locateDirImage(join(dir, 'allowed/link'), rules), join(dir, 'allowed/rootfs'))
})

test('directories elsewhere are refused, also through a link, and nothing tells whether they exist', async t => {
  const { dir, rules } = build(t)
  symlinkSync(join(dir, 'elsewhere'), join(dir, 'allowed/out'))
  for (const path of ['elsewhere', 'absent', 'allowed/out', 'allowedx']) {
    await assert.rejects(locateDirImage(join(dir, path), rules), { ...notAllowed, message: new RegExp(`from ${join(dir, path)};`) }, path)
  }
})

test('neither Berth\'s own directories nor those around them can be an image', async t => {
  const { dir, anywhere } = build(t)
  symlinkSync(join(dir, 'state'), join(dir, 'elsewhere/link'))
  for (const path of ['state', 'state/images', '', 'elsewhere/link', 'elsewhere/link/images']) {
    await assert.rejects(locateDirImage(join(dir, path), anywhere), notAllowed, path)
  }
})

test('what is missing, a file, the host root or not usable by overlay is refused with the path as given', async t => {
  const { dir, rules, anywhere } = build(t)
  writeFileSync(join(dir, 'allowed/file'), '')
  await assert.rejects(locateDirImage(join(dir, 'allowed/absent'), rules), { code: 'image_not_found', message: /allowed\/absent/ })
  await assert.rejects(locateDirImage(join(dir, 'allowed/file'), rules), { code: 'image_not_found', message: /not a directory/ })
  for (const path of ['/', '//', '/.']) await assert.rejects(locateDirImage(path, anywhere), { kind: 'invalid_argument', code: 'image_invalid' })
  for (const name of ['a:b', 'a,b', 'a\\b']) {
    await assert.rejects(locateDirImage(join(dir, 'allowed', name), rules), { kind: 'invalid_argument', code: 'image_invalid', message: /overlay/ })
  }
})
