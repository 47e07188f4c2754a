import { closeSync, openSync, writeSync } from 'node:fs'
import { inspectTar, type ReadTar, type TarInspection } from './tar-inspector.ts'
import { blockBytes } from './tar-header.ts'

/**
 * Writes what mkfs.erofs is to index in the place of a tar that leaves out directories, to which it would give any mode: a sparse file
 * with the tar's headers where they are, no data, and entries for those directories (root, 0755, time 0) at its end. Data keeps its place.
 */
export function writeIndexableTar (path: string, inspection: TarInspection, tarBytes: number, read: ReadTar): void {
  const fd = openSync(path, 'wx', 0o600)
  try {
    inspectTar(tarBytes, read, (offset, bytes) => writeSync(fd, bytes, 0, bytes.length, offset))
    let offset = inspection.endOffset
    for (const path of inspection.implicitDirectories) offset += writeSync(fd, directoryEntry(path), 0, null, offset)
    writeSync(fd, Buffer.alloc(2 * blockBytes), 0, null, offset)
  } finally {
    closeSync(fd)
  }
}

/** A pax header with the path, and the directory's own. */
function directoryEntry (path: string): Buffer {
  const rest = Buffer.from(` path=${path}\n`, 'latin1')
  let length = rest.length + 1
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length
  const record = Buffer.concat([Buffer.from(String(length)), rest])
  const padding = Buffer.alloc((blockBytes - record.length % blockBytes) % blockBytes)
  return Buffer.concat([header('x', record.length), record, padding, header('5', 0)])
}

/** A POSIX ustar header. */
function header (type: string, size: number): Buffer {
  const block = Buffer.alloc(blockBytes)
  const fields: ReadonlyArray<readonly [number, string]> = [[0, 'directory'], [100, '0000755\0'], [108, '0000000\0'], [116, '0000000\0'],
    [124, `${size.toString(8).padStart(11, '0')}\0`], [136, '00000000000\0'], [148, ' '.repeat(8)], [156, type], [257, 'ustar\u000000']]
  for (const [offset, text] of fields) block.write(text, offset, 'latin1')
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}
