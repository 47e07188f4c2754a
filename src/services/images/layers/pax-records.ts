import { refuse } from './tar-header.ts'

/**
 * The records of a pax extended header, `<length> <key>=<value>\n` each (pax(1), "pax Extended Header"), later ones over earlier ones.
 * Keys and values are raw bytes as latin1.
 *
 * @throws BerthError `image_invalid` for anything else.
 */
export function parsePaxRecords (body: Buffer): Map<string, string> {
  const records = new Map<string, string>()
  for (let at = 0; at < body.length;) {
    const digits = /^[1-9][0-9]{0,7} /.exec(body.toString('latin1', at, at + 9))?.[0]
    const end = at + Number(digits)
    if (digits === undefined || end > body.length || end <= at + digits.length + 1 || body[end - 1] !== 0x0a) throw refuse('a pax header is malformed')
    const record = body.toString('latin1', at + digits.length, end - 1)
    const equals = record.indexOf('=')
    if (equals < 1) throw refuse('a pax header is malformed')
    const key = record.slice(0, equals)
    if (key.includes('\0')) throw refuse('a pax header has a NUL in a key')
    records.set(key, record.slice(equals + 1))
    at = end
  }
  return records
}

// xattr(7) and linux/limits.h
const maxXattrNameBytes = 255
const maxXattrBytes = 65536

/**
 * The extended attributes of an entry must fit the kernel and not be those by which overlayfs steers itself (`trusted.overlay.*`,
 * `user.overlay.*`): a layer could redirect into another one by them.
 */
export function checkXattrs (records: ReadonlyMap<string, string>, path: string): void {
  for (const [key, value] of records) {
    // Also LIBARCHIVE.xattr.<name in percent encoding>.
    const name = /^(?:SCHILY|LIBARCHIVE)\.xattr\.(.*)$/s.exec(key)?.[1]?.replace(/%([0-9a-f]{2})/gi, (_all, hex: string) => String.fromCharCode(parseInt(hex, 16)))
    if (name === undefined) continue
    if (/^(?:trusted|user)\.overlay(?:\.|$)/i.test(name)) throw refuse('an entry has an extended attribute of overlayfs', path)
    if (name.length > maxXattrNameBytes || value.length > maxXattrBytes) throw refuse('an extended attribute is too large', path)
  }
}
