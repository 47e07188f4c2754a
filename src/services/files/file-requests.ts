/** What is asked of the files of a sandbox, and what comes out as bytes. */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import type { FileEntry } from '../../schemas/file.ts'

/** A path in a sandbox, and as whom to go there. */
export interface FileTarget {
  sandboxId: string
  path: string
  /** Where the bytes of a path are not UTF-8: it is base64 of them. */
  pathEncoding?: 'base64' | undefined
  /** The sandbox's own user unless said. */
  user?: string | undefined
}

/** Which bytes of a file: from `first` to `last`, or the last `suffix` of them. */
export type FileRange = { first: number, last?: number | undefined } | { suffix: number }

/** What comes out of a sandbox as bytes. */
export interface FileBytes {
  entry: FileEntry
  /** Errors where the file was cut while it was read: what came before is no file. Destroy it, or read it to its end. */
  body: Readable
}

export interface FileContent extends FileBytes {
  /** Where in the file the bytes begin. */
  first: number
  /** undefined where nobody knows before the end, as for files of /proc. */
  lengthBytes: number | undefined
  /**
   * In the place of `body`, for what is long: sends all of it to a connection, inside the kernel. `begin` writes what was read already, and
   * resolves when it has left this process. Rejects where not all of it is there: the connection is then to be broken off.
   */
  sendTo?: (sink: Socket, begin: (held: Buffer) => Promise<void>) => Promise<void>
}

/** How bytes go in. */
export interface FileInput {
  source: Readable
  /** The same as the request whose body it is, where that may pass through the kernel alone. Its connection serves no other request afterwards. */
  request?: IncomingMessage | undefined
  /** Called when nothing speaks against them: before that nothing is read. */
  onReady?: () => void
  signal: AbortSignal
}

export interface FileWriteOptions extends FileInput {
  mode?: string | undefined
  owner?: string | undefined
  parents: boolean
  overwrite: boolean
  /** Of the whole, where it is known. */
  sizeBytes?: number | undefined
}

export interface FileSearch {
  name?: string | undefined
  text?: string | undefined
  regex: boolean
  ignoreCase: boolean
  limit: number
  timeoutMs: number
}
