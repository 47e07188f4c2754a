import { LayerNeedsUnpackError } from './layer-needs-unpack-error.ts'
import { checkXattrs, parsePaxRecords } from './pax-records.ts'
import { blockBytes, parseTarHeader, refuse, type TarHeader } from './tar-header.ts'
import { TarTree } from './tar-tree.ts'

export interface TarInspection {
  /** Files, directories, links and the rest, without headers that belong to the next one. */
  entries: number
  /** Directories that are only named as part of a path: their owner and mode are not the archive's. Raw bytes as latin1. */
  implicitDirectories: string[]
  /** Where the end mark is. */
  endOffset: number
}

/** Reads up to so many bytes at an offset of the tar; fewer only at its end. */
export type ReadTar = (offset: number, length: number) => Buffer

/** Gets every header block, and the data of those that belong to another. */
export type OnHeader = (offset: number, bytes: Buffer) => void

const maxEntries = 2_000_000
const maxExtraHeaderBytes = 1024 ** 2
const maxLinkTargetBytes = 4095
const maxId = 2 ** 32 - 2

/** Headers that belong to the entry after them. */
interface Pending {
  longName?: string
  longLink?: string
  pax?: Map<string, string>
}

/**
 * Walks the headers of a tar and refuses whatever could mean something to one reader and something else to another, or that reaches beyond
 * its own tree. What it accepts means the same to mkfs.erofs and to tar.
 *
 * @throws BerthError invalid_argument `image_invalid`; LayerNeedsUnpackError where only the index is impossible.
 */
export function inspectTar (tarBytes: number, read: ReadTar, onHeader?: OnHeader): TarInspection {
  const tree = new TarTree()
  const headers = new HeaderReader(tarBytes, read, onHeader)
  let pending: Pending = {}
  let entries = 0
  for (;;) {
    const header = headers.next()
    if (!header) break
    const { type } = header
    if (type === 'x' || type === 'g' || type === 'L' || type === 'K') {
      const body = headers.body(header.size)
      if (type === 'g') checkGlobal(body)
      else pending = withExtra(pending, type, body)
      continue
    }
    if (++entries > maxEntries) throw refuse(`it has more than ${maxEntries} entries`)
    const dataBytes = addEntry(tree, header, pending)
    pending = {}
    headers.skip(dataBytes)
  }
  if (Object.keys(pending).length > 0) throw refuse('the archive ends after the header of an entry')
  return { entries, implicitDirectories: tree.implicitDirectories(), endOffset: headers.offset - 2 * blockBytes }
}

/** Goes from header to header. */
class HeaderReader {
  readonly #tarBytes: number
  readonly #read: ReadTar
  readonly #onHeader: OnHeader | undefined
  #offset = 0
  #buffer: Buffer = Buffer.alloc(0)
  #bufferStart = 0

  constructor (tarBytes: number, read: ReadTar, onHeader: OnHeader | undefined) {
    this.#tarBytes = tarBytes
    this.#read = read
    this.#onHeader = onHeader
  }

  get offset (): number {
    return this.#offset
  }

  /** The next header, undefined at the two zero blocks that end an archive. */
  next (): TarHeader | undefined {
    const block = this.#block()
    if (block[0] !== 0) {
      this.#onHeader?.(this.#offset - blockBytes, block)
      return parseTarHeader(block)
    }
    if (!isZero(block)) throw refuse('an entry has no name')
    if (!isZero(this.#block())) throw refuse('a single zero block stands between two entries')
    return undefined
  }

  /** The data of a header that belongs to the next one. */
  body (size: number): Buffer {
    if (size > maxExtraHeaderBytes) throw refuse('an extended header is too large')
    const start = this.#offset
    this.skip(size)
    const body = this.#read(start, size)
    this.#onHeader?.(start, body)
    return body
  }

  /** Skips the data of an entry, with its padding. */
  skip (size: number): void {
    this.#offset += Math.ceil(size / blockBytes) * blockBytes
    if (this.#offset > this.#tarBytes) throw refuse('the archive is cut off')
  }

  #block (): Buffer {
    if (this.#offset === this.#tarBytes) throw new LayerNeedsUnpackError('the archive has no end mark')
    const at = this.#offset - this.#bufferStart
    this.skip(blockBytes)
    if (at >= 0 && at + blockBytes <= this.#buffer.length) return this.#buffer.subarray(at, at + blockBytes)
    this.#bufferStart = this.#offset - blockBytes
    this.#buffer = this.#read(this.#bufferStart, readAheadBytes)
    if (this.#buffer.length < blockBytes) throw refuse('the archive is cut off')
    return this.#buffer.subarray(0, blockBytes)
  }
}

// Small files lie closer together than this; behind a large one the read begins afresh.
const readAheadBytes = 32 * 1024

function isZero (block: Buffer): boolean {
  return block.every(byte => byte === 0)
}

function withExtra (pending: Pending, type: 'x' | 'L' | 'K', body: Buffer): Pending {
  if (type === 'x') {
    if (pending.pax) throw refuse('an entry has two pax headers')
    return { ...pending, pax: parsePaxRecords(body) }
  }
  const key = type === 'L' ? 'longName' : 'longLink'
  if (pending[key] !== undefined) throw refuse('an entry has two long names')
  const text = body.toString('latin1')
  const end = text.indexOf('\0')
  if (end !== -1 && /[^\0]/.test(text.slice(end))) throw refuse('a name has a NUL in it')
  return { ...pending, [key]: end === -1 ? text : text.slice(0, end) }
}

/** A global header may say something about the archive, nothing about its entries: readers disagree on that. */
function checkGlobal (body: Buffer): void {
  for (const key of parsePaxRecords(body).keys()) {
    if (/^(?:path|linkpath|size|uid|gid|uname|gname|mtime|GNU\.sparse\..*|(?:SCHILY|LIBARCHIVE)\..*)$/s.test(key)) throw refuse('a global pax header speaks of single entries')
  }
}

/** Puts an entry into the tree and answers how much data follows its header. */
function addEntry (tree: TarTree, header: TarHeader, { longName, longLink, pax = new Map<string, string>() }: Pending): number {
  const path = onlyOne(pax.get('path'), longName, header.name, 'name')
  const target = onlyOne(pax.get('linkpath'), longLink, header.linkName, 'link target')
  if (header.type === 'S' || [...pax.keys()].some(key => key.startsWith('GNU.sparse.') || key === 'SCHILY.realsize')) throw new LayerNeedsUnpackError('it has a sparse file')
  const size = paxNumber(pax, 'size', Number.MAX_SAFE_INTEGER, path) ?? header.size
  for (const key of ['uid', 'gid']) paxNumber(pax, key, maxId, path)
  if (!/^-?\d{1,15}(?:\.\d*)?$/.test(pax.get('mtime') ?? '0')) throw refuse('the time of an entry is not a number', path)
  checkXattrs(pax, path)
  switch (header.type) {
    case '0': case '7':
      // tar takes it for a directory, mkfs.erofs for a file.
      if (path.endsWith('/')) throw new LayerNeedsUnpackError('the name of a file ends with a slash')
      tree.addFile(path, size)
      return size
    case '1': tree.addHardLink(path, target); break
    case '2':
      if (target === '' || target.includes('\0') || target.length > maxLinkTargetBytes) throw refuse('the target of a symbolic link is not possible', path)
      tree.addOther(path, 'symlink')
      break
    case '3': case '4': tree.addDevice(path, header.type === '3' && header.major === 0 && header.minor === 0); break
    case '5': tree.addDirectory(path); break
    case '6': tree.addOther(path, 'fifo'); break
    case '\0': throw new LayerNeedsUnpackError('an entry is of the oldest format')
    default: throw refuse(`an entry is of an unknown type ${JSON.stringify(header.type)}`, path)
  }
  // Some readers skip data here, others take it for the next header.
  if (size !== 0) throw refuse('an entry that cannot have data has some', path)
  return 0
}

/** A name has one source beside the header: which of two would win differs between readers. */
function onlyOne (fromPax: string | undefined, fromGnu: string | undefined, fromHeader: string, what: string): string {
  if (fromPax !== undefined && fromGnu !== undefined) throw refuse(`an entry has its ${what} twice`)
  return fromPax ?? fromGnu ?? fromHeader
}

function paxNumber (pax: ReadonlyMap<string, string>, key: string, maximum: number, path: string): number | undefined {
  const text = pax.get(key)
  if (text === undefined) return undefined
  if (!/^\d{1,16}$/.test(text) || Number(text) > maximum) throw refuse(`the ${key} of an entry is not a possible number`, path)
  return Number(text)
}
