import { link, open, readFile, rm, writeFile } from 'node:fs/promises'
import { BerthError } from '../../../errors.ts'
import { syncPath } from '../../../lib/durable-file.ts'
import type { LayerDescriptor } from './image-layer.ts'
import type { LayerDirectory, LayerFacts, LayerFiles } from './layer-directory.ts'
import { decodeSpanTable, type SpanTable } from './span-table.ts'

/** What makes a layer readable before its data is here, as it is kept in an index store. */
export interface LayerIndex {
  /** EROFS metadata. */
  meta: Buffer
  /** A span table, as `encodeSpanTable` makes it. */
  spans: Buffer
  /** What `spans` says, where that is known already. */
  table?: SpanTable
  /** See LayerFacts. */
  implicitDirectories?: string[]
  /** Files on disk with the same content: they are linked, which is faster and as safe. */
  kept?: { metaPath: string, spansPath: string }
}

const maxMetaBytes = 2 * 1024 ** 3

/** The index of a layer that is here, to be stored; undefined where there is none to be had (zstd). */
export async function readLayerIndex (directory: LayerDirectory, digest: string): Promise<LayerIndex | undefined> {
  const found = await directory.find(digest)
  if (!found?.facts.hasSpans) return undefined
  const files = directory.files(digest)
  const [meta, spans] = await Promise.all([readFile(files.metaPath), readFile(files.spansPath)])
  return { meta, spans }
}

/**
 * Makes a lazy layer from an index that may come from elsewhere. What the index says of single bytes is proved as they come, span by span;
 * that metadata and table belong to this layer is proved when it is complete. Until then its store is trusted.
 *
 * @throws BerthError invalid_argument `image_invalid` when the index is damaged or of another layer.
 */
export async function attachIndex (options: { layer: LayerDescriptor, index: LayerIndex, directory: LayerDirectory }): Promise<SpanTable> {
  const { layer, index, directory } = options
  const table = index.table ?? decodeSpanTable(index.spans)
  if (table.digest !== layer.digest || table.diffId !== layer.diffId || table.blobBytes !== layer.sizeBytes) throw invalid('it is of another layer')
  checkMeta(index.meta, table.tarBytes)
  const facts: LayerFacts = {
    version: 1,
    digest: layer.digest,
    mediaType: layer.mediaType,
    diffId: layer.diffId,
    blobBytes: layer.sizeBytes,
    tarBytes: table.tarBytes,
    hasSpans: true,
    entries: 0,
    implicitDirectories: index.implicitDirectories ?? [],
  }
  await directory.create(layer, async files => {
    if (!await linkKept(index.kept, files)) {
      await writeFile(files.metaPath, index.meta, { mode: 0o600 })
      await writeFile(files.spansPath, index.spans, { mode: 0o600 })
      await Promise.all([syncPath(files.metaPath), syncPath(files.spansPath)])
    }
    const tar = await open(files.tarPath, 'wx', 0o600)
    await tar.truncate(table.tarBytes).finally(() => tar.close())
    await writeFile(files.factsPath, JSON.stringify(facts), { mode: 0o600 })
    // Nothing of it is dear yet: after a loss of power it is attached again, and until then a reader of half a layer.json finds no layer.
  }, { isDurable: false })
  return table
}

async function linkKept (kept: LayerIndex['kept'], files: LayerFiles): Promise<boolean> {
  if (!kept) return false
  try {
    await link(kept.metaPath, files.metaPath)
    await link(kept.spansPath, files.spansPath)
    return true
  } catch {
    // Another file system, or evicted since.
    await Promise.all([rm(files.metaPath, { force: true }), rm(files.spansPath, { force: true })])
    return false
  }
}

// erofs_fs.h: the superblock at 1024, its magic, blkszbits, feature_incompat (CHUNKED_FILE, DEVICE_TABLE), extra_devices, devt_slotoff
const superblockAt = 1024
const erofsMagic = 0xe0f5e1e2
const blockBits = 9
const knownFeatures = 0x4 | 0x8
const deviceSlotBytes = 128
const deviceBlocksAt = 64
// mkfs.erofs counts the entries of directories that the tar leaves out.
const extraDeviceBytes = 256 * 1024 ** 2

/** Metadata as `mkfs.erofs --tar=i` makes it and nothing else: 512-byte blocks, one device no longer than the tar, no compression. */
function checkMeta (meta: Buffer, tarBytes: number): void {
  if (meta.length < superblockAt + deviceSlotBytes || meta.length > maxMetaBytes) throw invalid('the size of its metadata is impossible')
  const superblock = meta.subarray(superblockAt)
  if (superblock.readUInt32LE(0) !== erofsMagic || superblock[12] !== blockBits) throw invalid('its metadata is not that of a tar')
  if ((superblock.readUInt32LE(80) & ~knownFeatures) !== 0 || superblock.readUInt16LE(86) !== 1) throw invalid('its metadata is not that of a tar')
  const deviceAt = superblock.readUInt16LE(88) * deviceSlotBytes
  if (deviceAt + deviceSlotBytes > meta.length) throw invalid('its metadata is cut off')
  if (meta.readUInt32LE(deviceAt + deviceBlocksAt) * 2 ** blockBits > tarBytes + extraDeviceBytes) throw invalid('its metadata is of a larger layer')
}

function invalid (why: string): BerthError {
  return new BerthError('invalid_argument', 'image_invalid', `the index of a layer cannot be used: ${why}; remove it where it is stored, so that it is made again`)
}
