import { setTimeout as delay } from 'node:timers/promises'
import { throwIfError, type BerthClient, type Query } from './client.ts'
import { isPassing } from './log-follower.ts'

export interface SeqRead {
  /** Of a list whose cursors are the seqs of its records. */
  path: string
  query?: Query
  /** Read on behind this seq. */
  since?: string | undefined
  signal: AbortSignal
}

const pauseMs = 250
const pageSize = 200

/** What there is, page by page, with gaps where they are told of. */
export async function * pastRecords<T> (client: BerthClient, { path, query, since, signal }: SeqRead): AsyncGenerator<T> {
  let cursor = since
  do {
    const page = await client.request<{ items: T[], nextCursor?: string, gap?: T }>('GET', path, { query: { ...query, cursor, limit: pageSize }, signal })
    if (page.gap) yield page.gap
    yield * page.items
    cursor = page.nextCursor
  } while (cursor !== undefined)
}

/** What comes, for as long as one looks, each once; a daemon that goes away is waited for. */
export async function * followRecords<T extends { seq: number }> (client: BerthClient, { path, query, since, signal }: SeqRead): AsyncGenerator<T> {
  let cursor = since
  for (let pass = 0; ; pass++) {
    try {
      for await (const record of client.stream<T>('GET', path, { query: { ...query, cursor, follow: true, format: 'ndjson' }, signal })) {
        cursor = String(throwIfError(record).seq)
        yield record
      }
    } catch (error) {
      if (!isPassing(error, pass)) throw error
    }
    await delay(pauseMs, undefined, { signal })
    // Answers once the daemon is back, or fails for good.
    await client.request('GET', '/v1/host', { signal })
  }
}
