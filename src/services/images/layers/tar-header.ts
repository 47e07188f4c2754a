/**
 * One header block of a tar (POSIX ustar and GNU, pax(1) and the GNU tar manual), read so strictly that every reader agrees with it.
 * What readers disagree on is not guessed: it is a LayerNeedsUnpackError or `image_invalid`.
 */
import { BerthError } from '../../../errors.ts'
import { LayerNeedsUnpackError } from './layer-needs-unpack-error.ts'

export const blockBytes = 512

export interface TarHeader {
  /** Raw bytes as latin1, one character each. */
  name: string
  linkName: string
  type: string
  mode: number
  size: number
  major: number
  minor: number
}

/** The error for a layer that nobody should use. `path` is of the archive. */
export function refuse (why: string, path?: string): BerthError {
  const where = path === undefined ? '' : ` (${JSON.stringify(Buffer.from(path.slice(0, 200), 'latin1').toString())})`
  return new BerthError('invalid_argument', 'image_invalid', `a layer of the image cannot be used: ${why}${where}; use an image from a maker that you trust`)
}

/** @throws BerthError `image_invalid` or LayerNeedsUnpackError. */
export function parseTarHeader (block: Buffer): TarHeader {
  checkChecksum(block)
  const magic = block.toString('latin1', 257, 265)
  const isGnu = magic === 'ustar  \0'
  if (!isGnu && !magic.startsWith('ustar\0')) throw new LayerNeedsUnpackError('a header is neither POSIX nor GNU')
  const prefix = text(block, 345, 155)
  // GNU tar has times there in its own format, which mkfs.erofs takes for a part of the name.
  if (isGnu && prefix !== '') throw new LayerNeedsUnpackError('a GNU header has more than a name')
  const name = text(block, 0, 100)
  if (name === '') throw refuse('an entry has no name')
  const mode = octal(block, 100, 8, 'mode')
  const type = block.toString('latin1', 156, 157)
  checkFileType(mode, type)
  // Only mkfs.erofs reads these; their values need no check beyond that it can.
  for (const [offset, length, what] of [[108, 8, 'owner'], [116, 8, 'group'], [136, 12, 'time']] as const) number(block, offset, length, what)
  const isDevice = type === '3' || type === '4'
  return {
    name: prefix === '' ? name : `${prefix}${prefix.endsWith('/') ? '' : '/'}${name}`,
    linkName: text(block, 157, 100),
    type,
    mode,
    size: number(block, 124, 12, 'size'),
    major: isDevice ? number(block, 329, 8, 'device number') : 0,
    minor: isDevice ? number(block, 337, 8, 'device number') : 0,
  }
}

function checkChecksum (block: Buffer): void {
  const stated = octal(block, 148, 8, 'checksum')
  let [unsigned, signed] = [8 * 32, 8 * 32]
  for (let i = 0; i < blockBytes; i++) {
    if (i >= 148 && i < 156) continue
    const byte = block[i] ?? 0
    unsigned += byte
    // Old writers summed signed characters.
    signed += byte > 127 ? byte - 256 : byte
  }
  if (stated !== unsigned && stated !== signed) throw refuse('the checksum of a tar header is wrong')
}

// The type bits of st_mode, which some writers put into the mode.
const typeBits: Readonly<Record<string, number>> = { 0: 0o100000, 1: 0o100000, 2: 0o120000, 3: 0o020000, 4: 0o060000, 5: 0o040000, 6: 0o010000, 7: 0o100000 }

function checkFileType (mode: number, type: string): void {
  const bits = mode & ~0o7777
  if (bits !== 0 && bits !== typeBits[type]) throw new LayerNeedsUnpackError('the mode of an entry says another type')
}

function text (block: Buffer, offset: number, length: number): string {
  const field = block.toString('latin1', offset, offset + length)
  const end = field.indexOf('\0')
  return end === -1 ? field : field.slice(0, end)
}

/** An octal number, or one of GNU's in base 256. */
function number (block: Buffer, offset: number, length: number, what: string): number {
  const first = block[offset] ?? 0
  if (first < 0x80) return octal(block, offset, length, what)
  if (first !== 0x80) {
    if (what === 'time') throw new LayerNeedsUnpackError('an entry has a time before 1970 in base 256')
    throw refuse(`the ${what} of an entry is negative or too large`)
  }
  const value = BigInt(`0x${block.toString('hex', offset + 1, offset + length)}`)
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw refuse(`the ${what} of an entry is negative or too large`)
  return Number(value)
}

function octal (block: Buffer, offset: number, length: number, what: string): number {
  const field = block.toString('latin1', offset, offset + length)
  const digits = /^ *([0-7]+)(?:[ \0]|$)/.exec(field)?.[1]
  if (digits === undefined) {
    if (/^\0+ *\0*$/.test(field)) return 0
    throw refuse(`the ${what} of an entry is not a number`)
  }
  // mkfs.erofs reads on into the next field.
  if (!/[ \0]/.test(field.trimStart())) throw new LayerNeedsUnpackError(`the ${what} of an entry has no end`)
  return parseInt(digits, 8)
}
