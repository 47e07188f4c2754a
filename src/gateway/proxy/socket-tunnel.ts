import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/** Lets the system notice peers that vanished. */
const keepAliveMs = 30_000
/** Once one side has said its last, what is on its way has so long to arrive. */
const lingerMs = 10_000

/** Carries bytes in both directions until both have ended, or one breaks; then nothing of either is left. */
export function joinSockets (client: Duplex, host: Duplex): Promise<void> {
  const pairs = [[client, host], [host, client]] as const
  const closed = pairs.map(([from, to]) => new Promise<void>(resolve => {
    const socket = from as Socket
    socket.setTimeout?.(0)
    socket.setNoDelay?.(true)
    socket.setKeepAlive?.(true, keepAliveMs)
    // A close follows, which says that it broke.
    from.on('error', () => {})
    from.once('end', () => setTimeout(() => { for (const end of [from, to]) end.destroy() }, lingerMs).unref())
    from.once('close', () => {
      // What arrived before is still on its way.
      if (from.readableEnded) (to as Socket).destroySoon()
      else to.destroy()
      resolve()
    })
    from.pipe(to)
  }))
  // One that was gone before anybody listened says nothing more.
  for (const [from, to] of pairs) if (from.destroyed) to.destroy()
  return client.destroyed && host.destroyed ? Promise.resolve() : Promise.all(closed).then(() => undefined)
}
