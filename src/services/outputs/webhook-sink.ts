/** Output posted to a URL as JSON: `{ taskId, entries }` and `{ taskId, statuses }`. */
import { dataJson } from './entry-json.ts'
import type { SinkRequest } from './open-sink.ts'
import { signingKey } from './output-settings.ts'
import { SinkRefusal, type OutputEntry, type OutputSink } from './output-sink.ts'
import type { WebhookSender } from './webhook-sender.ts'

/**
 * The `webhook-id` of a message names what is in it: the task, the output, and the first and last number. Receivers drop what
 * they have had by it; after a restart of the daemon what comes again may be cut otherwise, and the numbers of the entries tell.
 */
export function openWebhookSink ({ taskId, spec, index }: SinkRequest, sender: WebhookSender): OutputSink {
  const { url, secret } = spec
  if (url === undefined) throw new SinkRefusal('there is no URL to post to')
  const key = secret === undefined ? undefined : signingKey(secret)
  const closing = new AbortController()
  const post = (kind: string, numbers: readonly { seq: number }[], content: object): Promise<void> => {
    const id = `${taskId}.${index}.${kind}${numbers[0]?.seq ?? 0}-${numbers.at(-1)?.seq ?? 0}`
    return sender.send({ url, id, key, body: JSON.stringify({ taskId, ...content }) }, closing.signal)
  }
  return {
    limits: { batchBytes: 256 * 1024, batchEntries: 1000, batchesInFlight: 1, entryBytes: 64 * 1024 },
    write: async batch => {
      await post('', batch, { entries: batch.map(entryJson) })
      return undefined
    },
    writeStatus: async statuses => { await post('s', statuses, { statuses }) },
    close: async () => { closing.abort() },
  }
}

function entryJson ({ seq, cursor, at, stream, data, isLineEnd, isGap }: OutputEntry): object {
  return { seq, cursor, time: at, stream, ...dataJson(data), lineEnd: isLineEnd, ...(isGap ? { gap: true } : {}) }
}
