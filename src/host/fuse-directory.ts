/** What a flat, read-only FUSE directory holds, and its answers to everything but reads. */
import { constants } from 'node:os'
import {
  decodeName, decodeRead, encodeAttributes, encodeDirectory, encodeEmpty, encodeEntry, encodeError, encodeInit, encodeOpen, encodeStatfs,
  opcodes, refusalOf, rootNodeId, type FuseNode, type FuseRequest,
} from './fuse-protocol.ts'

/** One file of the mount, whose content is in a local sparse file as far as it has come. */
export interface FuseFile {
  /** Its name in the mount. */
  name: string
  /** 2 or more; the same in every server that ever serves this mount, so callers derive it from the content's digest. */
  nodeId: bigint
  sizeBytes: number
  /** A local file with the same content at the same offsets. */
  dataPath: string
  /** Bit i (of byte i / 8, least significant first) is set once granule i is in that file. Set with Atomics, never cleared. */
  present: SharedArrayBuffer
  granuleBytes: number
}

/** Whether all of a range has come. The range must lie in the file. */
export function isPresent (file: FuseFile, startByte: number, endByte: number): boolean {
  const bits = new Uint8Array(file.present)
  const end = Math.ceil(endByte / file.granuleBytes)
  for (let granule = Math.floor(startByte / file.granuleBytes); granule < end;) {
    const byte = granule >> 3
    if (byte >= bits.length) return false
    const value = Atomics.load(bits, byte)
    const from = granule & 7
    const to = Math.min(8, from + end - granule)
    const wanted = (0xff >> (8 - to)) & (0xff << from)
    if ((value & wanted) !== wanted) return false
    granule += to - from
  }
  return true
}

const root: FuseNode = { nodeId: rootNodeId, sizeBytes: 0, isDirectory: true }
const { ENODATA, ENOENT, ESTALE, ENOTDIR } = constants.errno

export class FuseDirectory<File extends FuseFile> {
  readonly #byName = new Map<string, File>()
  readonly #byNodeId = new Map<bigint, File>()

  /** Names and nodes must differ. */
  add (file: File): void {
    this.#byName.set(file.name, file)
    this.#byNodeId.set(file.nodeId, file)
  }

  /** The file that was removed, or undefined. */
  remove (name: string): File | undefined {
    const file = this.#byName.get(name)
    if (!file) return undefined
    this.#byName.delete(name)
    this.#byNodeId.delete(file.nodeId)
    return file
  }

  find (nodeId: bigint): File | undefined {
    return this.#byNodeId.get(nodeId)
  }

  findByName (name: string): File | undefined {
    return this.#byName.get(name)
  }

  /** The answer to a request other than READ; undefined where the kernel wants none. */
  answer ({ opcode, unique, nodeId, body }: FuseRequest): Buffer | undefined {
    switch (opcode) {
      case opcodes.init: return encodeInit(unique, body)
      case opcodes.lookup: return this.#lookUp(unique, nodeId, decodeName(body))
      case opcodes.getAttributes: {
        const node = this.#findNode(nodeId)
        return node ? encodeAttributes(unique, node) : encodeError(unique, ESTALE)
      }
      case opcodes.open:
      case opcodes.openDirectory: return this.#findNode(nodeId) ? encodeOpen(unique) : encodeError(unique, ENOENT)
      case opcodes.readDirectory: return this.#list(unique, nodeId, body)
      case opcodes.statfs: return encodeStatfs(unique, this.#byName.size)
      case opcodes.access:
      case opcodes.release:
      case opcodes.releaseDirectory:
      case opcodes.destroy: return encodeEmpty(unique)
      case opcodes.getXattr: return encodeError(unique, ENODATA)
      case opcodes.forget:
      case opcodes.batchForget:
      case opcodes.interrupt: return undefined
      // The kernel takes ENOSYS as a word for ever where it can do without: FLUSH, LISTXATTR, LSEEK.
      default: return encodeError(unique, refusalOf(opcode))
    }
  }

  #lookUp (unique: bigint, parent: bigint, name: string): Buffer {
    if (parent !== rootNodeId) return encodeError(unique, ENOTDIR)
    const file = this.#byName.get(name)
    return file ? encodeEntry(unique, nodeOf(file)) : encodeError(unique, ENOENT)
  }

  #list (unique: bigint, nodeId: bigint, body: Buffer): Buffer {
    if (nodeId !== rootNodeId) return encodeError(unique, ENOTDIR)
    const { offset, sizeBytes } = decodeRead(body)
    const dots = ['.', '..'].map(name => ({ name, nodeId: rootNodeId, isDirectory: true }))
    // In the order of their names: a file that comes or goes between two calls moves as few others as can be.
    const files = [...this.#byName.values()].sort((a, b) => a.name < b.name ? -1 : 1).map(({ name, nodeId: id }) => ({ name, nodeId: id, isDirectory: false }))
    return encodeDirectory(unique, [...dots, ...files], offset, sizeBytes)
  }

  #findNode (nodeId: bigint): FuseNode | undefined {
    if (nodeId === rootNodeId) return root
    const file = this.#byNodeId.get(nodeId)
    return file && nodeOf(file)
  }
}

function nodeOf ({ nodeId, sizeBytes }: FuseFile): FuseNode {
  return { nodeId, sizeBytes, isDirectory: false }
}
