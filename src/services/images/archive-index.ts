import { ContainedFileError } from './contained-file.ts'
import type { FileRange } from './image-files.ts'
import { parsePaxRecords } from './layers/pax-records.ts'
import { blockBytes, parseTarHeader, type TarHeader } from './layers/tar-header.ts'

/** Something in an archive of an image, other than a directory. */
export type ArchiveMember =
  | { kind: 'file', offsetBytes: number, sizeBytes: number }
  /** A link's target as a path from the top of the archive. */
  | { kind: 'link', target: string }
  | { kind: 'other' }

// Old docker writes three members a layer, and a file system tree by mistake has many thousands.
const maxMembers = 10_000
const maxExtensionBytes = 64 * 1024
const regularTypes = new Set(['0', '\0', '7'])

/**
 * The members of a tar archive by path, read from their headers alone.
 *
 * @throws ContainedFileError for what is no whole tar archive, names that lead out of it, and names that occur twice:
 * programs would not agree on what the archive holds.
 */
export async function indexArchive (archive: FileRange): Promise<Map<string, ArchiveMember>> {
  const members = new Map<string, ArchiveMember>()
  let count = 0
  for await (const { header, offsetBytes } of headers(archive)) {
    if (++count > maxMembers) throw new ContainedFileError(`it has more than ${maxMembers} members, so it is no archive of an image`)
    if (header.type === '5') continue
    const path = memberPath(header.name, '')
    if (members.has(path)) throw new ContainedFileError(`${show(path)} is in it twice`)
    members.set(path, memberOf(header, path, offsetBytes))
  }
  if (count === 0) throw new ContainedFileError('it is empty')
  return members
}

function memberOf (header: TarHeader, path: string, offsetBytes: number): ArchiveMember {
  if (regularTypes.has(header.type)) return { kind: 'file', offsetBytes, sizeBytes: header.size }
  // A symbolic link counts from its directory, a hard link from the top.
  if (header.type === '2') return { kind: 'link', target: memberPath(header.linkName, path.slice(0, path.lastIndexOf('/') + 1)) }
  if (header.type === '1') return { kind: 'link', target: memberPath(header.linkName, '') }
  return { kind: 'other' }
}

/** Headers of members with what extension headers say of them applied, and where their content begins. */
async function * headers (archive: FileRange): AsyncGenerator<{ header: TarHeader, offsetBytes: number }> {
  let extended: Partial<Pick<TarHeader, 'name' | 'linkName' | 'size'>> = {}
  for (let at = 0; at < archive.sizeBytes;) {
    const block = await archive.readAt(at, blockBytes)
    if (block.length < blockBytes) throw cutShort()
    if (block.every(byte => byte === 0)) return
    const own = parse(() => parseTarHeader(block))
    const isExtension = 'xgLK'.includes(own.type)
    const header = isExtension ? own : { ...own, ...extended }
    const contentAt = at + blockBytes
    at = contentAt + Math.ceil(header.size / blockBytes) * blockBytes
    if (contentAt + header.size > archive.sizeBytes) throw cutShort()
    if (!isExtension) {
      yield { header, offsetBytes: archive.offsetBytes + contentAt }
      extended = {}
      continue
    }
    if (header.size > maxExtensionBytes) throw new ContainedFileError('it has an extended header that is too large')
    const body = await archive.readAt(contentAt, header.size)
    if (own.type === 'L') extended.name = untilNul(body)
    else if (own.type === 'K') extended.linkName = untilNul(body)
    else {
      const records = fromPax(parse(() => parsePaxRecords(body)))
      if (own.type === 'x') Object.assign(extended, records)
      else if (Object.keys(records).length > 0) throw new ContainedFileError('it has a global header that names all members')
    }
  }
}

function fromPax (records: ReadonlyMap<string, string>): Partial<Pick<TarHeader, 'name' | 'linkName' | 'size'>> {
  const [name, linkName, size] = [records.get('path'), records.get('linkpath'), records.get('size')]
  if (size !== undefined && !(/^\d{1,16}$/.test(size) && Number.isSafeInteger(Number(size)))) throw new ContainedFileError('it has a member whose size is not a number')
  return { ...(name === undefined ? {} : { name }), ...(linkName === undefined ? {} : { linkName }), ...(size === undefined ? {} : { size: Number(size) }) }
}

/** A path inside the archive, counted from `base`, without what changes nothing. */
function memberPath (text: string, base: string): string {
  const names: string[] = []
  if (text.startsWith('/') || text.includes('\0')) throw leadsOut(text)
  for (const name of `${base}${text}`.split('/')) {
    if (name === '' || name === '.') continue
    if (name !== '..') names.push(name)
    // Only a link's target may climb, and not above the top.
    else if (base === '' || names.pop() === undefined) throw leadsOut(text)
  }
  if (names.length === 0) throw leadsOut(text)
  return names.join('/')
}

function parse<T> (read: () => T): T {
  try {
    return read()
  } catch (error) {
    const wrapped = new ContainedFileError('it is no tar archive that can be read here')
    wrapped.cause = error
    throw wrapped
  }
}

function untilNul (body: Buffer): string {
  const text = body.toString('latin1')
  const end = text.indexOf('\0')
  return end < 0 ? text : text.slice(0, end)
}

function cutShort (): ContainedFileError {
  return new ContainedFileError('the archive is cut short')
}

function leadsOut (text: string): ContainedFileError {
  return new ContainedFileError(`it has a member ${show(text)}, which is no path inside of it`)
}

/** A name from the archive as it may stand in a message. */
function show (text: string): string {
  return JSON.stringify(text.slice(0, 200))
}
