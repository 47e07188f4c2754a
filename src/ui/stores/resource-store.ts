/** A list of resources that keeps itself up to date: read once, then only what events speak of. */
import { signal } from '@preact/signals'
import type { Event } from '../../schemas/event.ts'
import { ApiError, messageOf, type ApiClient, type Query } from '../api/api-client.ts'

export interface ResourceStoreOptions {
  client: ApiClient
  /** Of the list, as `/v1/sandboxes`; items are below it by their id. */
  path: string
  query?: Query
  /** At most so many are read; the newest. */
  most?: number
  /** Which resource an event is about, if it is one of these. */
  idOf: (event: Event) => string | undefined
  isDeletion: (event: Event) => boolean
  /** How long events are gathered before what they speak of is read, in milliseconds. */
  gatherMs?: number
}

export type StoreState = 'idle' | 'loading' | 'ready' | 'failed'

// One list of all costs the daemon less than this many single ones.
const mostSingles = 25
const mostAtOnce = 5

export class ResourceStore<T extends { id: string, createdAt: string, deletedAt?: string }> {
  /** By id. An item that did not change is the same object. */
  readonly items = signal<ReadonlyMap<string, T>>(new Map())
  readonly state = signal<StoreState>('idle')
  readonly error = signal<string | undefined>(undefined)
  readonly #options: ResourceStoreOptions
  readonly #changed = new Set<string>()
  #timer: ReturnType<typeof setTimeout> | undefined
  #loading: Promise<void> | undefined

  constructor (options: ResourceStoreOptions) {
    this.#options = options
  }

  /** Reads everything, anew; a call while one is under way is that one. Failures are in `error`. */
  load (): Promise<void> {
    this.#loading ??= this.#loadAll().finally(() => { this.#loading = undefined })
    return this.#loading
  }

  /** Reads everything unless that was done before. */
  ensure (): void {
    if (this.state.value === 'idle') void this.load()
  }

  receive (event: Event): void {
    const id = this.#options.idOf(event)
    if (id === undefined) return
    if (this.#options.isDeletion(event)) {
      this.#changed.delete(id)
      this.remove(id)
    } else if (this.state.value !== 'idle') {
      this.#changed.add(id)
      this.#timer ??= setTimeout(() => void this.#readChanged(), this.#options.gatherMs ?? 120)
    }
  }

  put (item: T): void {
    this.items.value = new Map(this.items.value).set(item.id, item)
  }

  remove (id: string): void {
    if (!this.items.value.has(id)) return
    const left = new Map(this.items.value)
    left.delete(id)
    this.items.value = left
  }

  /** No timer is left behind. */
  close (): void {
    clearTimeout(this.#timer)
  }

  async #loadAll (): Promise<void> {
    const { client, path, query, most } = this.#options
    if (this.state.value !== 'ready') this.state.value = 'loading'
    try {
      const found = await client.list<T>(path, query, most)
      const known = this.items.value
      this.items.value = new Map(found.map(item => [item.id, sameOrNew(known.get(item.id), item)]))
      this.state.value = 'ready'
      this.error.value = undefined
    } catch (error) {
      this.error.value = messageOf(error)
      if (this.state.value !== 'ready') this.state.value = 'failed'
    }
  }

  async #readChanged (): Promise<void> {
    this.#timer = undefined
    const ids = [...this.#changed]
    this.#changed.clear()
    if (ids.length > mostSingles) return await this.load()
    const before = this.items.value
    const found = new Map<string, T | undefined>()
    const readNext = async (): Promise<void> => {
      for (let id = ids.pop(); id !== undefined; id = ids.pop()) await this.#readOne(id, found)
    }
    await Promise.all(Array.from({ length: mostAtOnce }, readNext))
    const items = new Map(this.items.value)
    for (const [id, item] of found) {
      // What was deleted meanwhile stays away.
      const isGone = item === undefined || item.deletedAt !== undefined || (before.has(id) && !items.has(id))
      if (isGone) items.delete(id)
      else items.set(id, item)
    }
    this.items.value = items
  }

  async #readOne (id: string, into: Map<string, T | undefined>): Promise<void> {
    try {
      into.set(id, await this.#options.client.get<T>(`${this.#options.path}/${id}`))
    } catch (error) {
      // Of others it will be told, or all is read again when the connection is back.
      if (error instanceof ApiError && error.status === 404) into.set(id, undefined)
    }
  }
}

/** The known one where nothing is different, so that what shows it need not be drawn again. */
function sameOrNew<T> (known: T | undefined, fresh: T): T {
  return known !== undefined && JSON.stringify(known) === JSON.stringify(fresh) ? known : fresh
}

/** Newest first. */
export function byAge<T extends { id: string, createdAt: string }> (items: Iterable<T>): T[] {
  return [...items].sort((a, b) => a.createdAt < b.createdAt ? 1 : a.createdAt > b.createdAt ? -1 : a.id < b.id ? -1 : 1)
}
