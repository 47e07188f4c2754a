/** Two sockets that are one connection, and how they are connected and cut. */
import { connect, type NetConnectOpts, type Socket } from 'node:net'

// One segment of what the other side has not taken yet may wait beyond this.
const highWaterBytes = 128 * 1024
// What libuv reads at once; larger ones are slower, for they leave the cache.
const readBufferBytes = 64 * 1024
const nothing = Buffer.alloc(0)
const keepAliveDelayMs = 60_000

/** How sockets are made that carry what others send. */
export const carrierOptions = { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: keepAliveDelayMs }

/** Where bytes are connected to: nothing else than these addresses, without any further look-up. */
export interface DialOptions {
  addresses: readonly string[]
  port: number
  timeoutMs: number
  /** Who gets what comes; where absent, the socket is an ordinary one. */
  receiver?: Socket
}

export interface Dialled {
  socket: Socket
  /** The address that it is connected to; rejects with the error of the socket. */
  connected: Promise<string>
}

export type Dial = (options: DialOptions) => Dialled

/** Begins to connect to the first address that answers, with a new attempt whenever one takes long (Happy Eyeballs). */
export function dial ({ addresses, port, timeoutMs, receiver }: DialOptions): Dialled {
  const options: NetConnectOpts = {
    ...carrierOptions,
    // HTTP takes the end of a connection for the end of both sides.
    allowHalfOpen: receiver !== undefined,
    port,
    // A name that does not exist: only `lookup` says where it leads.
    host: 'vetted.invalid',
    autoSelectFamily: true,
    lookup: (_name, _options, answer) => answer(null, addresses.map(address => ({ address, family: address.includes(':') ? 6 : 4 }))),
  }
  const socket: Socket = connect({ ...options, ...receiver !== undefined && { onread: { buffer: Buffer.allocUnsafeSlow(readBufferBytes), callback: passOn } } })
  const timer = setTimeout(() => socket.destroy(Object.assign(new Error(`no connection within ${timeoutMs} ms`), { code: 'ETIMEDOUT' })), timeoutMs)
  socket.once('connect', () => clearTimeout(timer)).once('close', () => clearTimeout(timer))
  return { socket, connected: connected(socket) }

  /** The buffer is used again as soon as this answers true: only once the kernel has taken all of it. */
  function passOn (length: number, buffer: Uint8Array): boolean {
    if (receiver === undefined) return true
    receiver.write(buffer.subarray(0, length))
    if (receiver.writableLength === 0) return true
    // There is no `drain` for less than the high-water mark.
    receiver.write(nothing, () => socket.resume())
    return false
  }
}

async function connected (socket: Socket): Promise<string> {
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve).once('error', reject).once('close', () => reject(new Error('closed before it was connected')))
  })
  return socket.remoteAddress ?? ''
}

/**
 * Carries bytes both ways until both sides have ended; half-closed sides stay so. What breaks one side resets the other.
 * `upstream` may have been dialled with `near` for its receiver.
 */
export function join (near: Socket, upstream: Socket, { hasReceiver }: { hasReceiver: boolean }): void {
  near.allowHalfOpen = upstream.allowHalfOpen = true
  for (const [from, to] of [[near, upstream], [upstream, near]] as const) {
    if (from !== upstream || !hasReceiver) forward(from, to)
    from.on('error', () => {})
    from.once('end', () => to.end())
    from.once('close', () => { if (!from.readableEnded || !from.writableFinished) cut(to) })
    from.resume()
  }
  // One may have broken before anyone listened.
  if (near.destroyed) cut(upstream)
  if (upstream.destroyed) cut(near)
}

/** Like `pipe`, but it pauses only when bytes really wait: a write that the kernel takes at once leaves none. */
function forward (from: Socket, to: Socket): void {
  from.on('data', (chunk: Buffer) => {
    to.write(chunk)
    if (to.writableLength > highWaterBytes) from.pause()
  })
  to.on('drain', () => from.resume())
}

/** Ends a connection at once, with a reset. */
export function cut (socket: Socket): void {
  // Node would first wait for a connection that is under way.
  if (socket.connecting) socket.destroy()
  else socket.resetAndDestroy()
}
