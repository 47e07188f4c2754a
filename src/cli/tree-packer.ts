import { basename, dirname } from 'node:path'
import { Readable } from 'node:stream'
import { create } from 'tar'
import { BerthError } from '../errors.ts'
import { printable } from './printable.ts'

export interface PackOptions {
  /** What is packed. */
  source: string
  isDirectory: boolean
  /** What it is called in the archive; undefined: what is in the directory, without it. */
  name: string | undefined
  /** Told of every piece of the archive. */
  onBytes?: (bytes: number) => void
}

/** A tar of a file or a directory here, with modes, times, symbolic and hard links as they are. What is neither is left out. */
export function packTree ({ source, isDirectory, name, onBytes }: PackOptions): Readable {
  const common = { noPax: false, strict: false, onwarn: () => {} }
  const pack = isDirectory
    ? create({ ...common, cwd: source, ...(name === undefined ? {} : { prefix: name }) }, ['.'])
    : create({ ...common, cwd: dirname(source), onWriteEntry: entry => { entry.path = name ?? basename(source) } }, [`./${basename(source)}`])
  return Readable.from(pieces(pack, onBytes), { objectMode: false })
}

async function * pieces (pack: AsyncIterable<Buffer>, onBytes: ((bytes: number) => void) | undefined): AsyncGenerator<Buffer> {
  try {
    for await (const piece of pack) {
      onBytes?.(piece.length)
      yield piece
    }
  } catch (error) {
    throw new BerthError('invalid_argument', 'source_unreadable', `what is to be copied cannot be read: ${printable((error as Error).message)}`, { cause: error })
  }
}
