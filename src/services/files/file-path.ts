import { BerthError } from '../../errors.ts'

/** As Linux has it: PATH_MAX counts the NUL at the end. */
const maxPathBytes = 4095
const maxNameBytes = 255
const base64Pattern = /^[A-Za-z0-9+/_-]+={0,2}$/
const nul = 0

/** A path inside a sandbox as a client writes it. */
export interface WrittenPath {
  path: string
  /** Where its bytes are not UTF-8: `path` is base64 of them. */
  pathEncoding?: 'base64' | undefined
}

/**
 * The bytes of a path.
 *
 * @param field which one, for the message.
 * @throws BerthError invalid_argument `invalid_path` where it is not absolute, too long, or no base64.
 */
export function pathBytes ({ path, pathEncoding }: WrittenPath, field = 'path'): Buffer {
  if (pathEncoding === 'base64' && !base64Pattern.test(path)) throw invalidPath(field, 'must be base64 of the bytes of a path, as pathEncoding says')
  const bytes = Buffer.from(path, pathEncoding ?? 'utf8')
  if (bytes[0] !== 0x2f) throw invalidPath(field, 'must be an absolute path (it begins with /)')
  if (bytes.includes(nul)) throw invalidPath(field, 'must not contain NUL characters')
  if (bytes.length > maxPathBytes) throw invalidPath(field, `must not be longer than ${maxPathBytes} bytes`)
  return bytes
}

function invalidPath (field: string, problem: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_path', `${field} ${problem}`, { details: { field } })
}

/** The cursor of a list whose last entry has this name. */
export function cursorBehind (name: string, encoding: 'base64' | undefined): string {
  return Buffer.from(name, encoding ?? 'utf8').toString('base64url')
}

/** The bytes of the name behind which a list goes on. @throws BerthError invalid_argument `invalid_cursor`. */
export function nameOfCursor (cursor: string): Buffer {
  const bytes = Buffer.from(cursor, 'base64url')
  const isName = bytes.length > 0 && bytes.length <= maxNameBytes && !bytes.includes(nul) && !bytes.includes(0x2f)
  if (isName && base64Pattern.test(cursor)) return bytes
  throw new BerthError('invalid_argument', 'invalid_cursor', 'cursor is not one that this list answered; leave it out to begin anew')
}
