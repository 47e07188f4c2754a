import { readdir } from 'node:fs/promises'
import { ignoreMissing } from '../../lib/ignore-missing.ts'
import type { OutputReader } from './output-reader.ts'
import { screenOffsets } from './server/output-segments.ts'
import type { Screen } from './server/pty-protocol.ts'

/** The last screen that was kept of a terminal: with the output behind it, what a terminal shows that nobody can be asked about any more. */
export async function readKeptScreen (dir: string, reader: OutputReader): Promise<Screen | undefined> {
  const offset = screenOffsets(await readdir(dir).catch(ignoreMissing) ?? []).at(-1)
  return offset === undefined ? undefined : await reader.screenAt(offset)
}
