import { mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

/** A directory that goes with the test. */
export function tempDir (t: TestContext): string {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'berth-images-')))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}
