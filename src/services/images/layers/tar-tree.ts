import { LayerNeedsUnpackError } from './layer-needs-unpack-error.ts'
import { refuse } from './tar-header.ts'

type Kind = 'directory' | 'implicit' | 'file' | 'symlink' | 'fifo' | 'device' | 'whiteout'

// linux/limits.h
const maxNameBytes = 255
const maxPathBytes = 4095
// V8 keeps a name of ten characters in about a hundred bytes.
const maxAllNamesBytes = 512 * 1024 ** 2

const maxNames = 4_000_000
const maxImplicitDirectories = 100_000

// OCI image-spec, layer.md, "Whiteouts"; what else begins with two prefixes is aufs's own.
const whiteoutPrefix = '.wh.'
const opaqueName = '.wh..wh..opq'

/** The names of one layer, entry by entry, as they would come to lie in a directory; every rule that a path can break is here. */
export class TarTree {
  readonly #kinds = new Map<string, Kind>()
  #nameBytes = 0
  /** Entries come in order: the parents of the last one are known to be directories. */
  #knownParent: string | undefined

  addFile (path: string, size: number): void {
    const parts = split(path)
    const name = parts.at(-1)
    if (!name?.startsWith(whiteoutPrefix)) return this.#set(parts, path, 'file')
    if (size !== 0) throw refuse('a whiteout has data', path)
    const hidden = name.slice(whiteoutPrefix.length)
    if (name === opaqueName) {
      const directory = parts.slice(0, -1)
      // mkfs.erofs has no place for the mark of the root, and a layer that hides all layers below is nobody's.
      if (directory.length === 0) throw new LayerNeedsUnpackError('the root directory is opaque')
      this.#checkParents(parts, path)
      return
    }
    if (hidden === '' || hidden === '.' || hidden === '..' || hidden.startsWith(whiteoutPrefix)) throw refuse('a whiteout hides nothing that a layer can have', path)
    this.#set([...parts.slice(0, -1), hidden], path, 'whiteout')
  }

  addHardLink (path: string, target: string): void {
    const parts = this.#plain(path)
    const targetParts = this.#plain(target)
    this.#checkParents(targetParts, target)
    const targetKind = this.#kinds.get(targetParts.join('/'))
    if (targetKind === undefined || targetKind === 'whiteout') throw refuse('a hard link names a file that is not in its layer', path)
    if (targetKind === 'directory' || targetKind === 'implicit') throw refuse('a hard link names a directory', path)
    if (parts.join('/') === targetParts.join('/')) throw refuse('a hard link names itself', path)
    this.#set(parts, path, targetKind)
  }

  addOther (path: string, kind: 'symlink' | 'fifo'): void {
    this.#set(this.#plain(path), path, kind)
  }

  /** Nodes below /dev are of no use, for a sandbox mounts its own there, and layers are mounted without devices. */
  addDevice (path: string, isWhiteout: boolean): void {
    const parts = this.#plain(path)
    if (isWhiteout) throw refuse('an entry is a character device 0:0, which is how overlayfs hides files', path)
    if (parts[0] !== 'dev' || parts.length < 2) throw refuse('it has a device node outside /dev', path)
    this.#set(parts, path, 'device')
  }

  addDirectory (path: string): void {
    const parts = split(path)
    // The root itself, as `./`.
    if (parts.length === 0) return
    if (parts.at(-1)?.startsWith(whiteoutPrefix)) throw refuse('a whiteout is not a plain file', path)
    this.#set(parts, path, 'directory')
  }

  /** Directories without an entry of their own, each after its parent. */
  implicitDirectories (): string[] {
    const paths = [...this.#kinds].filter(([, kind]) => kind === 'implicit').map(([path]) => path)
    if (paths.length > maxImplicitDirectories) throw new LayerNeedsUnpackError('it leaves out too many directories')
    return paths
  }

  /** The parts of a name that is neither the root nor a whiteout. */
  #plain (path: string): string[] {
    const parts = split(path)
    if (parts.length === 0) throw refuse('the root of the layer is not a directory', path)
    if (parts.at(-1)?.startsWith(whiteoutPrefix)) throw refuse('a whiteout is not a plain file', path)
    return parts
  }

  #set (parts: readonly string[], path: string, kind: Kind): void {
    if (parts.length === 0) throw refuse('the root of the layer is not a directory', path)
    this.#checkParents(parts, path)
    const key = parts.join('/')
    const existing = this.#kinds.get(key)
    const wasDirectory = existing === 'directory' || existing === 'implicit'
    if (existing !== undefined && (existing === 'whiteout') !== (kind === 'whiteout')) throw new LayerNeedsUnpackError('a name is there and hidden in one layer')
    if (wasDirectory && kind !== 'directory') throw new LayerNeedsUnpackError('a directory is replaced by something else')
    this.#put(key, kind)
  }

  /** Everything above a name is a directory of this layer, or becomes one. */
  #checkParents (parts: readonly string[], path: string): void {
    const parent = parts.slice(0, -1).join('/')
    if (parent === this.#knownParent) return
    let key = ''
    for (const part of parts.slice(0, -1)) {
      if (part.startsWith(whiteoutPrefix)) throw refuse('a whiteout is used as a directory', path)
      key = key === '' ? part : `${key}/${part}`
      const kind = this.#kinds.get(key)
      if (kind === 'symlink') throw refuse('a path leads through a symbolic link of the same layer', path)
      if (kind === 'whiteout') throw new LayerNeedsUnpackError('a name is there and hidden in one layer')
      if (kind === undefined) this.#put(key, 'implicit')
      else if (kind !== 'directory' && kind !== 'implicit') throw refuse('a path leads through something that is not a directory', path)
    }
    this.#knownParent = parent
  }

  #put (key: string, kind: Kind): void {
    if (!this.#kinds.has(key)) this.#nameBytes += key.length
    if (this.#nameBytes > maxAllNamesBytes || this.#kinds.size > maxNames) throw refuse('the names of its entries are too many')
    this.#kinds.set(key, kind)
    // It may have been a directory that others know as their parent.
    if (kind !== 'directory' && kind !== 'implicit' && key === this.#knownParent) this.#knownParent = undefined
  }
}

/** The parts of a path of the archive, without `.` and doubled slashes, of which every reader makes the same. */
function split (path: string): string[] {
  if (path.includes('\0')) throw refuse('a name has a NUL in it', path)
  if (path === '') throw refuse('an entry has no name')
  if (path.startsWith('/')) throw refuse('a path is absolute', path)
  if (path.length > maxPathBytes) throw refuse('a path is too long', path)
  const parts = path.split('/').filter(part => part !== '' && part !== '.')
  if (parts.includes('..')) throw refuse('a path goes up with ..', path)
  if (parts.some(part => part.length > maxNameBytes)) throw refuse('a name is too long', path)
  return parts
}
