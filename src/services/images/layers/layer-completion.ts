import { open, readFile, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { BerthError } from '../../../errors.ts'
import { makeTarIndex } from '../../../host/erofs.ts'
import { syncPath } from '../../../lib/durable-file.ts'
import type { LayerFiles } from './layer-directory.ts'
import { isLayerNeedsUnpack } from './layer-needs-unpack-error.ts'
import type { SpanTable } from './span-table.ts'
import { TarScan } from './tar-scan.ts'

/**
 * Checks a layer of which every byte is here and on disk, and makes it complete: the whole tar has its diff id and would have been accepted
 * by the eager way. Its metadata is made again: what an index from elsewhere said is not trusted longer than it must be.
 *
 * @throws BerthError invalid_argument `image_invalid`.
 */
export async function completeLayer (options: { files: LayerFiles, table: SpanTable, signal?: AbortSignal }): Promise<void> {
  const { files, table, signal } = options
  const indexablePath = `${files.tarPath}.headers`
  await rm(indexablePath, { force: true })
  const scan = new TarScan({ tarPath: files.tarPath, spans: undefined, indexablePath })
  const scanned = await scan.finish().catch((error: unknown) => {
    throw isLayerNeedsUnpack(error) ? damaged(error) : error
  }).finally(() => scan.close())
  if (scanned.diffId !== table.diffId) throw damaged()
  const ownMetaPath = `${files.metaPath}.own`
  try {
    const refusal = await makeTarIndex(scanned.indexablePath, ownMetaPath, { signal })
    if (refusal !== undefined) throw damaged(new Error(refusal))
    await replaceIfDifferent(ownMetaPath, files.metaPath)
  } finally {
    for (const path of [ownMetaPath, indexablePath]) await rm(path, { force: true })
  }
  await (await open(files.completePath, 'w', 0o600)).close()
  await syncPath(dirname(files.completePath))
}

/** Whoever has the old one mounted keeps it. */
async function replaceIfDifferent (from: string, to: string): Promise<void> {
  if ((await readFile(from)).equals(await readFile(to))) return
  await syncPath(from)
  await rename(from, to)
}

function damaged (cause?: unknown): BerthError {
  return new BerthError('invalid_argument', 'image_invalid', 'the content of a layer is not what the image\'s configuration says, or its index is of another layer; push the image again and remove the index where it is stored', { cause })
}
