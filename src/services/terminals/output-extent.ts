import { readdirSync, statSync } from 'node:fs'
import { segmentOffsets, segmentPath } from './server/output-segments.ts'

/** How far the kept output of a terminal reaches. */
export interface OutputExtent {
  oldestOffset: number
  /** Behind the last byte. */
  endOffset: number
  /** When something was written last; milliseconds since the epoch, 0 where nothing ever was. */
  writtenAt: number
}

/** What the files say at this moment. Two calls of the kernel, answered from its memory: so it is asked without a wait. */
export function readExtent (dir: string): OutputExtent {
  try {
    const offsets = segmentOffsets(readdirSync(dir))
    const oldestOffset = offsets[0]
    const last = offsets.at(-1)
    if (oldestOffset !== undefined && last !== undefined) {
      const { size, mtimeMs } = statSync(segmentPath(dir, last))
      return { oldestOffset, endOffset: last + size, writtenAt: size > 0 || last > 0 ? mtimeMs : 0 }
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  return { oldestOffset: 0, endOffset: 0, writtenAt: 0 }
}
