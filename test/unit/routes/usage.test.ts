import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Sandbox } from '../../../src/schemas/sandbox.ts'
import { asAdmin, buildTestApp } from './fake-services.ts'

test('usage of one sandbox and of all', async t => {
  const { app } = await buildTestApp(t)
  const created = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: asAdmin, payload: { image: 'berth/base' } })
  const { id } = created.json<Sandbox>()
  const one = await app.inject({ url: `/v1/sandboxes/${id}/usage`, headers: asAdmin })
  assert.deepEqual([one.statusCode, one.json<{ sandboxId: string, cpuTimeMs: number }>()], [200, { ...one.json(), sandboxId: id, cpuTimeMs: 12.5 }])
  const all = await app.inject({ url: '/v1/usage', headers: asAdmin })
  assert.ok(all.json<{ items: Array<{ sandboxId: string }> }>().items.some(({ sandboxId }) => sandboxId === id))
})

test('usage of a sandbox that is not there', async t => {
  const { app } = await buildTestApp(t)
  const { statusCode } = await app.inject({ url: `/v1/sandboxes/sbx_${'0'.repeat(20)}/usage`, headers: asAdmin })
  assert.equal(statusCode, 404)
})
