/** What happens on the host, while it happens: one stream for the whole page, which is also how the page knows that the daemon is there. */
import { signal } from '@preact/signals'
import type { Event } from '../../schemas/event.ts'
import { ApiError, type ApiClient } from './api-client.ts'
import { readSse } from './line-splitter.ts'
import { retryDelayMs, sleep } from './retry-delay.ts'

export type FeedState = 'connecting' | 'online' | 'lost'

// The daemon sends a comment every 15 seconds; two may be lost.
const silenceMs = 40_000
const keptEvents = 1000

export class EventFeed {
  /** lost: the daemon does not answer; it is tried again and again. */
  readonly state = signal<FeedState>('connecting')
  /** Grows by one each time that the stream is there again: what was read before may be out of date. */
  readonly generation = signal(0)
  /** The newest events of this session, the oldest of them first. */
  readonly events = signal<readonly Event[]>([])
  readonly #client: ApiClient
  readonly #listeners = new Set<(event: Event) => void>()
  readonly #stopping = new AbortController()
  #attempt = new AbortController()
  #lastSeq: number | undefined
  #failures = 0

  constructor (client: ApiClient) {
    this.#client = client
  }

  /** Calls the listener with each event, until the function that is answered is called. */
  subscribe (listener: (event: Event) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Follows until `stop`, or until the token is refused. */
  async run (): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      this.#attempt = new AbortController()
      try {
        await this.#follow(AbortSignal.any([this.#attempt.signal, this.#stopping.signal]))
      } catch (error) {
        if (error instanceof ApiError && [401, 403].includes(error.status)) return
      }
      if (this.#stopping.signal.aborted) return
      this.state.value = 'lost'
      this.#attempt = new AbortController()
      await sleep(retryDelayMs(this.#failures++), AbortSignal.any([this.#attempt.signal, this.#stopping.signal]))
    }
  }

  /** Does not wait for the next try any longer. */
  retryNow (): void {
    if (this.state.value === 'lost') this.#attempt.abort()
  }

  stop (): void {
    this.#stopping.abort()
  }

  async #follow (signal: AbortSignal): Promise<void> {
    const silence = new AbortController()
    let timer: ReturnType<typeof setTimeout> | undefined
    const hear = () => {
      clearTimeout(timer)
      timer = setTimeout(() => silence.abort(), silenceMs)
    }
    hear()
    try {
      const response = await this.#client.open('/v1/events', {
        query: { follow: true, format: 'sse', cursor: this.#lastSeq }, accept: 'text/event-stream', signal: AbortSignal.any([signal, silence.signal]),
      })
      this.#opened()
      for await (const message of readSse(response.body!, hear)) {
        hear()
        if (message.event !== 'end' && message.event !== 'error') this.#receive(JSON.parse(message.data) as Event)
      }
    } finally {
      clearTimeout(timer)
    }
  }

  #opened (): void {
    this.#failures = 0
    if (this.state.value === 'lost') this.generation.value++
    this.state.value = 'online'
  }

  #receive (event: Event): void {
    this.#lastSeq = event.seq
    this.events.value = [...this.events.value.slice(1 - keptEvents), event]
    for (const listener of this.#listeners) listener(event)
  }
}
