import type { Logger } from 'pino'
import { endClient } from '../redis/redis-client.ts'
import { retryForEver } from '../redis/redis-retry.ts'
import type { RedisConnection } from '../redis/redis-types.ts'
import { wireKeys } from './wire-keys.ts'

export interface WireCancelOptions {
  redis: RedisConnection
  /** Somebody wants the task ended that its producer knows by this id; it may be nobody's here. */
  onCancel: (externalId: string) => void
  logger?: Logger
}

export interface WireCancels {
  /** Resolves once it listens. */
  listening: Promise<void>
  close: () => void
}

/** Hears of all tasks on one subscription: cancels are rare, and one pattern costs a publisher nothing per task. Cancels in a time without a connection are lost. */
export function subscribeCancels ({ redis, onCancel, logger }: WireCancelOptions): WireCancels {
  const [head = '', tail = ''] = wireKeys(redis.prefix).cancel('*').split('*')
  const client = redis.another('subscriber')
  const closing = new AbortController()
  client.on('pmessage', (_pattern: string, channel: string) => {
    if (channel.startsWith(head) && channel.endsWith(tail) && !closing.signal.aborted) onCancel(channel.slice(head.length, channel.length - tail.length))
  })
  const pattern = `${escapePattern(head)}*${escapePattern(tail)}`
  const listening = retryForEver(() => client.psubscribe(pattern), { signal: closing.signal, onError: error => { logger?.warn({ err: error }, 'cancels of foreign producers cannot be heard; it is tried again') } })
  return {
    listening: listening.then(() => undefined),
    close: () => {
      closing.abort()
      void endClient(client)
    },
  }
}

/** What a pattern of Redis takes as it is. */
export function escapePattern (text: string): string {
  return text.replace(/[*?[\]\\^]/g, '\\$&')
}
