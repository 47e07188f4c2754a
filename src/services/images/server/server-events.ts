import { EventRing } from '../../../lib/event-ring.ts'
import type { ServerEvent, ServerEventType } from './control-protocol.ts'

// A daemon that was away for so long sees the state of layers all the same.
const keptEvents = 1000

/** What happened to layers, for whoever follows; the latest are kept for one that comes back. */
export class ServerEvents {
  readonly #ring = new EventRing<ServerEvent>({ capacity: keptEvents })

  append (type: ServerEventType, digest: string, message?: string): void {
    this.#ring.append(seq => ({ seq, at: new Date().toISOString(), type, digest, ...(message === undefined ? {} : { message }) }))
  }

  /** What is kept since `after`, then what happens, until the signal is aborted. */
  read (after: number, signal: AbortSignal): AsyncIterable<ServerEvent> {
    return this.#ring.read(after, signal)
  }
}
