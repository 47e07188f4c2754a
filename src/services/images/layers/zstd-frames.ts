import { BerthError } from '../../../errors.ts'

const frameMagic = 0xfd2fb528
const skippableMagic = 0x184d2a50

/** How many bytes a piece of the format has and what follows it; `undefined` stands for the end of a frame. */
interface Step {
  bytes: number
  /** Gets the piece when `isKept`. */
  then: (piece: Buffer) => Step | undefined
  isKept: boolean
}

/**
 * The same bytes, but no chunk goes beyond the end of a frame: node:zlib drops what follows a frame in one chunk (zstd:chunked and pzstd
 * write many). Frames are found by their headers alone (RFC 8878, section 3.1).
 *
 * @throws BerthError invalid_argument `image_invalid` when it is no sequence of whole frames.
 */
export async function * splitZstdFrames (input: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, void> {
  let step: Step | undefined
  let missing = 0
  let piece: Buffer[] = []
  for await (const chunk of input) {
    let frameStart = 0
    for (let at = 0; at < chunk.length;) {
      if (!step) {
        step = frameHeader
        missing = step.bytes
      }
      const taken = Math.min(missing, chunk.length - at)
      if (step.isKept) piece.push(chunk.subarray(at, at + taken))
      at += taken
      missing -= taken
      // Pieces of no length follow each other at once.
      while (step && missing === 0) {
        step = step.then(Buffer.concat(piece))
        piece = []
        missing = step?.bytes ?? 0
      }
      if (step) continue
      yield chunk.subarray(frameStart, at)
      frameStart = at
    }
    if (frameStart < chunk.length) yield chunk.subarray(frameStart)
  }
  if (step) throw notZstd()
}

export function notZstd (cause?: unknown): BerthError {
  return new BerthError('invalid_argument', 'image_invalid', 'a layer of the image is not a whole zstd stream: it is damaged, cut off, or followed by something else; push the image again', { cause })
}

const frameHeader: Step = {
  bytes: 4,
  isKept: true,
  then: piece => {
    const magic = piece.readUInt32LE(0)
    if (magic === frameMagic) return descriptor
    if ((magic & ~0xf) >>> 0 === skippableMagic) return { bytes: 4, isKept: true, then: size => skipped(size.readUInt32LE(0), () => undefined) }
    throw notZstd()
  },
}

const descriptor: Step = {
  bytes: 1,
  isKept: true,
  then: piece => {
    const flags = piece[0] ?? 0
    const isSingleSegment = (flags & 0x20) !== 0
    const contentSizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][flags >> 6] ?? 0
    const dictionaryIdBytes = [0, 1, 2, 4][flags & 3] ?? 0
    const hasChecksum = (flags & 4) !== 0
    return skipped((isSingleSegment ? 0 : 1) + dictionaryIdBytes + contentSizeBytes, () => block(hasChecksum))
  },
}

function block (hasChecksum: boolean): Step {
  return {
    bytes: 3,
    isKept: true,
    then: piece => {
      const header = piece.readUIntLE(0, 3)
      const isRepeatedByte = (header >> 1 & 3) === 1
      const isLast = (header & 1) === 1
      const afterLast = () => hasChecksum ? skipped(4, () => undefined) : undefined
      return skipped(isRepeatedByte ? 1 : header >> 3, () => isLast ? afterLast() : block(hasChecksum))
    },
  }
}

function skipped (bytes: number, then: () => Step | undefined): Step {
  return { bytes, isKept: false, then }
}
