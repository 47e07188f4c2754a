import type { ServerEvent, ServerEventType } from './control-protocol.ts'

// A daemon that was away for so long sees the state of layers all the same.
const keptEvents = 1000

/** What happened to layers, for whoever follows; the latest are kept for one that comes back. */
export class ServerEvents {
  readonly #kept: ServerEvent[] = []
  readonly #listeners = new Set<(event: ServerEvent) => void>()
  #lastSeq = 0

  append (type: ServerEventType, digest: string, message?: string): void {
    const event: ServerEvent = { seq: ++this.#lastSeq, at: new Date().toISOString(), type, digest, ...(message === undefined ? {} : { message }) }
    this.#kept.push(event)
    if (this.#kept.length > keptEvents) this.#kept.shift()
    for (const listener of this.#listeners) listener(event)
  }

  /** Calls back with what is kept since `after`, then with what happens; the answer ends it. */
  follow (after: number, listener: (event: ServerEvent) => void): () => void {
    for (const event of this.#kept) if (event.seq > after) listener(event)
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}
