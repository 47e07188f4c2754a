import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SecretSealer } from '../../../../src/gateway/sealed-secret.ts'

test('a sealed secret opens for its owner, with the same key, and for nobody else', () => {
  const sealer = new SecretSealer('berth_admin')
  const sealed = sealer.seal('berth_of_the_host', 'hst_1')
  assert.equal(new SecretSealer('berth_admin').open(sealed, 'hst_1'), 'berth_of_the_host')
  assert.equal(sealer.open(sealed, 'hst_2'), undefined)
  assert.equal(new SecretSealer('berth_other').open(sealed, 'hst_1'), undefined)
})

test('what was changed, cut short or never sealed does not open', () => {
  const sealer = new SecretSealer('berth_admin')
  const sealed = sealer.seal('secret', 'hst_1')
  const bytes = Buffer.from(sealed.slice(3), 'base64url')
  for (let at = 0; at < bytes.length; at++) {
    const changed = Buffer.from(bytes)
    changed[at]! ^= 1
    assert.equal(sealer.open(`v1.${changed.toString('base64url')}`, 'hst_1'), undefined)
    assert.equal(sealer.open(`v1.${bytes.subarray(0, at).toString('base64url')}`, 'hst_1'), undefined)
  }
  for (const text of ['', 'secret', 'v2.AAAA', `${sealed}!`]) assert.equal(sealer.open(text, 'hst_1'), undefined)
})

test('the same secret is never sealed twice in the same way, and cannot be seen in it', () => {
  const sealer = new SecretSealer('berth_admin')
  const sealed = Array.from({ length: 100 }, () => sealer.seal('secret', 'hst_1'))
  assert.equal(new Set(sealed).size, 100)
  assert.ok(sealed.every(text => !Buffer.from(text.slice(3), 'base64url').includes('secret')))
})
