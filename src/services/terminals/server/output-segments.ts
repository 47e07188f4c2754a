/** The files of a terminal's output by name: `output.<offset>` and `screen.<offset>`, see pty-protocol.ts. */
import { join } from 'node:path'

const digits = 16
const segmentName = /^output\.(\d{16})$/
const screenName = /^screen\.(\d{16})$/

/** Where the output from this offset on is. */
export function segmentPath (dir: string, offset: number): string {
  return join(dir, `output.${String(offset).padStart(digits, '0')}`)
}

/** Where the screen at this offset is. */
export function screenPath (dir: string, offset: number): string {
  return join(dir, `screen.${String(offset).padStart(digits, '0')}`)
}

/** The offsets at which output files begin, ascending, out of the names of a directory. */
export function segmentOffsets (names: readonly string[]): number[] {
  return offsetsOf(names, segmentName)
}

/** The offsets of screens, ascending, out of the names of a directory. */
export function screenOffsets (names: readonly string[]): number[] {
  return offsetsOf(names, screenName)
}

function offsetsOf (names: readonly string[], pattern: RegExp): number[] {
  return names.flatMap(name => pattern.exec(name)?.[1] ?? []).map(Number).sort((a, b) => a - b)
}
