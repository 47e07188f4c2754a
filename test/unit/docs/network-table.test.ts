/** The table of attempts in docs/network.md and its proofs are the same lines. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { readNetworkTable } from '../../support/network-table.ts'

const tests = fileURLToPath(new URL('../../host/', import.meta.url))

/** The names in `prove('…'`. */
function provenAttempts (): string[] {
  const text = globSync('network-*.test.ts', { cwd: tests }).map(name => readFileSync(`${tests}${name}`, 'utf8')).join('\n')
  return [...text.matchAll(/\bprove\('((?:[^'\\]|\\.)+)'/g)].map(([, name = '']) => name.replaceAll('\\\'', '\''))
}

test('every line of the table has its proof, and every proof its line', () => {
  const attempts = readNetworkTable().map(({ attempt }) => attempt)
  assert.ok(attempts.length > 60, String(attempts.length))
  assert.deepEqual(provenAttempts().toSorted(), attempts.toSorted())
})
