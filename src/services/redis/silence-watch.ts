/** Notices that a server has gone silent: it is stopped, or the way to it is cut without a word. */
import type { Redis } from 'ioredis'

/** What the library keeps of a connection; its types do not tell. */
interface Inner {
  stream?: { bytesRead: number, destroyed: boolean, destroy: (error: Error) => void }
  commandQueue: { length: number }
}

/** How often a connection is looked at, in shares of its limit. */
const looks = 4

/**
 * Cuts a connection from which nothing has come for `limitMs` although something was asked; it then connects again by itself.
 * `ping`: asks when nothing else does, for one that only listens. It counts its looks and not the time, so that a process that was
 * itself stopped for a while cuts nothing.
 */
export function watchSilence (client: Redis, { limitMs, ping }: { limitMs: number, ping: boolean }): void {
  const inner = client as unknown as Inner
  let seen = { stream: inner.stream, bytes: 0 }
  let silentLooks = 0
  const look = (): void => {
    const { stream } = inner
    const bytes = stream?.bytesRead ?? 0
    const isWaiting = inner.commandQueue.length > 0
    if (stream === undefined || stream.destroyed || stream !== seen.stream || bytes !== seen.bytes || !isWaiting) silentLooks = 0
    else if (++silentLooks >= looks) stream.destroy(new Error(`Socket timeout. Nothing came for ${limitMs} ms`))
    seen = { stream, bytes }
    if (ping && !isWaiting && client.status === 'ready') client.ping().catch(() => undefined)
  }
  let timer: NodeJS.Timeout | undefined
  client.on('connecting', () => { timer ??= setInterval(look, limitMs / looks).unref() })
  client.on('end', () => {
    clearInterval(timer)
    timer = undefined
  })
}
