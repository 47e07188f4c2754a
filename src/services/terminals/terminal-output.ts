import { readKeptScreen } from './kept-screen.ts'
import { readExtent, type OutputExtent } from './output-extent.ts'
import { OutputReader } from './output-reader.ts'
import type { PtyEnd, Screen } from './server/pty-protocol.ts'
import { TerminalFeed, type TerminalFeedOptions } from './terminal-feed.ts'

/** All that one terminal has written: what comes, and what is kept. */
export class TerminalOutput {
  readonly feed: TerminalFeed
  readonly reader: OutputReader
  readonly #dir: string
  /** Of one that writes no more. */
  #final: OutputExtent | undefined

  constructor (dir: string, options: TerminalFeedOptions) {
    this.#dir = dir
    this.feed = new TerminalFeed(options)
    this.reader = new OutputReader(dir)
  }

  /** How far a viewer can come: to what it was told of, or to the last of all. */
  get endOffset (): number { return this.#final?.endOffset ?? this.feed.end }

  extent (): OutputExtent {
    return this.#final ?? readExtent(this.#dir)
  }

  /** It writes no more. What could not be written to the files counts, too. */
  settle (end?: PtyEnd): void {
    const extent = readExtent(this.#dir)
    this.#final = { ...extent, endOffset: Math.max(extent.endOffset, end?.offset ?? 0) }
  }

  /** Its files go. */
  forget (): void {
    this.#final ??= { oldestOffset: 0, endOffset: 0, writtenAt: 0 }
    this.feed.changed.notify()
  }

  keptScreen (): Promise<Screen | undefined> {
    return readKeptScreen(this.#dir, this.reader)
  }
}
