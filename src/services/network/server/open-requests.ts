import type { OpenAnswer, OpenRequest } from './network-protocol.ts'

interface Waiting {
  resolve: (isOpen: boolean) => void
  timer: NodeJS.Timeout
}

// The name server gives up after as long.
const answerTimeoutMs = 5000
const maxWaiting = 4096

/** What the daemon was asked to open in the packet filter, and has not answered yet. */
export class OpenRequests {
  readonly #ask: (request: OpenRequest) => void
  readonly #waiting = new Map<number, Waiting>()
  #lastId = 0

  constructor (options: { ask: (request: OpenRequest) => void }) {
    this.#ask = options.ask
  }

  /** Resolves to whether the addresses can be reached; false when nobody answers within 5 s, or too many wait already. */
  async open (request: Omit<OpenRequest, 'requestId'>): Promise<boolean> {
    if (this.#waiting.size >= maxWaiting) return false
    const requestId = ++this.#lastId
    return await new Promise<boolean>(resolve => {
      this.#waiting.set(requestId, { resolve, timer: setTimeout(() => this.answer({ requestId, isOpen: false }), answerTimeoutMs) })
      this.#ask({ requestId, ...request })
    })
  }

  answer ({ requestId, isOpen }: OpenAnswer): void {
    const waiting = this.#waiting.get(requestId)
    this.#waiting.delete(requestId)
    clearTimeout(waiting?.timer)
    waiting?.resolve(isOpen)
  }
}
