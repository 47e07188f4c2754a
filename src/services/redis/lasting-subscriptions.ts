/** Subscriptions that outlive their connection. */
import type { Redis } from 'ioredis'
import { isRedisFailure } from './redis-error.ts'

type Kind = 'subscribe' | 'psubscribe'
type Subscribe = (...channels: (string | Buffer)[]) => Promise<unknown>

const undoing = { subscribe: 'unsubscribe', psubscribe: 'punsubscribe' } as const

/**
 * Makes every subscription on each connection anew, until it is given up. The library would do so too, but sends a subscription that
 * is asked for early before it has seen whether the server serves, which that server then refuses to say, and forgets it.
 */
export function keepSubscriptions (client: Redis): void {
  const calls = client as unknown as Record<string, Subscribe>
  // One for each subscription that waits for a connection.
  client.setMaxListeners(0)
  const resume: (() => Promise<unknown>)[] = []
  for (const kind of ['subscribe', 'psubscribe'] as const) resume.push(keepKind(client, calls, kind))
  client.on('ready', () => { for (const work of resume) work().catch(() => undefined) })
}

/** Answers what subscribes again. */
function keepKind (client: Redis, calls: Record<string, Subscribe>, kind: Kind): () => Promise<unknown> {
  const wanted = new Set<string>()
  const [subscribe, unsubscribe] = [calls[kind]!.bind(client), calls[undoing[kind]]!.bind(client)]
  calls[kind] = async (...channels) => {
    const names = channels.map(String)
    for (const name of names) wanted.add(name)
    for (;;) {
      if (client.status !== 'ready') await becomeReady(client)
      const left = names.filter(name => wanted.has(name))
      try {
        return left.length === 0 ? 0 : await subscribe(...left)
      } catch (error) {
        if (!isRedisFailure(error) || client.status === 'end') throw error
      }
    }
  }
  calls[undoing[kind]] = async (...channels) => {
    const names = channels.length === 0 ? [...wanted] : channels.map(String)
    for (const name of names) wanted.delete(name)
    return client.status === 'ready' && names.length > 0 ? await unsubscribe(...names) : 0
  }
  return async () => { if (wanted.size > 0) await subscribe(...wanted) }
}

/** @throws Error once the connection is closed for good. */
async function becomeReady (client: Redis): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const fail = (): void => { reject(new Error('Connection is closed.')) }
  if (client.status === 'end') fail()
  client.once('ready', resolve)
  client.once('end', fail)
  try {
    await promise
  } finally {
    client.off('ready', resolve)
    client.off('end', fail)
  }
}
