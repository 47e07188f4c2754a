import assert from 'node:assert/strict'
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { LeaseStore } from '../../../src/services/images/lease-store.ts'
import { tempDir } from './temp-dir.ts'

test('a lease is on disk when acquire returns, and the next daemon finds it', async t => {
  const dir = join(tempDir(t), 'leases')
  const first = new LeaseStore({ dir })
  await first.acquire('sbx_a', 'sha256:1')
  await first.acquire('sbx_b', null)
  const next = new LeaseStore({ dir })
  assert.deepEqual(await next.load(new Set(['sbx_a', 'sbx_b'])), [])
  assert.deepEqual(next.holdersOf('sha256:1'), ['sbx_a'])
  assert.equal(next.holds('sha256:2'), false)
})

test('leases without a holder and half-written files are dropped', async t => {
  const dir = join(tempDir(t), 'leases')
  const first = new LeaseStore({ dir })
  await first.acquire('sbx_a', 'sha256:1')
  await first.acquire('sbx_b', 'sha256:1')
  writeFileSync(join(dir, 'sbx_c.tmp'), '{')
  const next = new LeaseStore({ dir })
  assert.deepEqual(await next.load(new Set(['sbx_b', 'sbx_c'])), ['sbx_a'])
  assert.deepEqual(readdirSync(dir), ['sbx_b.json'])
})

test('a lease that cannot be read holds every image while its holder lives', async t => {
  const dir = tempDir(t)
  writeFileSync(join(dir, 'sbx_a.json'), '')
  const leases = new LeaseStore({ dir })
  await leases.load(new Set(['sbx_a']))
  assert.equal(leases.holds('sha256:1'), true)
  await leases.release('sbx_a')
  assert.equal(leases.holds('sha256:1'), false)
})

test('release is idempotent, and ids that are paths are refused', async t => {
  const leases = new LeaseStore({ dir: join(tempDir(t), 'leases') })
  await leases.release('sbx_a')
  await leases.acquire('sbx_a', 'sha256:1')
  await leases.release('sbx_a')
  await leases.release('sbx_a')
  assert.equal(leases.holds('sha256:1'), false)
  for (const id of ['', '../x', 'a/b', '.', 'a\0']) await assert.rejects(leases.acquire(id, null), TypeError)
})
