/**
 * Connections to programs in sandboxes, for http.Agent. What comes is read into memory that is used again: a fresh 64 KiB for each read,
 * which is what sockets usually do, costs more than all else that is done with a large answer.
 */
import { connect, type Socket, type TcpNetConnectOpts } from 'node:net'
import type { Writable } from 'node:stream'

/** Is given what was read, good until it returns, or, after it said false, until the socket is resumed. False stops the reading. */
export type Take = (chunk: Buffer) => boolean

const commonBytes = 64 * 1024
/** For what is read and parsed at once, by whichever connection. */
const common = Buffer.allocUnsafeSlow(commonBytes)

interface Reading {
  take?: Take
  own?: Buffer
}

const readings = new WeakMap<Socket, Reading>()

export function connectToProgram (options: TcpNetConnectOpts): Socket {
  const reading: Reading = {}
  const socket = connect({
    ...options,
    onread: {
      buffer: () => reading.own ?? common,
      callback (bytes, buffer) {
        const chunk = (buffer as Buffer).subarray(0, bytes)
        // Read before there was memory of its own, it may be held for longer than that memory is good.
        if (reading.take) return reading.take(buffer === common ? Buffer.from(chunk) : chunk)
        // Node's parser listens, and copies what it passes on. Nobody does on a connection that waits for its next request: what comes
        // there answers nothing.
        if (!socket.emit('data', chunk)) socket.destroy()
        return true
      },
    },
  })
  readings.set(socket, reading)
  return socket
}

/**
 * Leads all that comes from here on past those who listen for `data`, for as long as the connection lives. Ends and errors are told as ever.
 * The connection must be one of connectToProgram; it gets memory of its own, of so many bytes, for as long as it lives.
 */
export function divert (socket: Socket, take: Take, bytes: number): void {
  const reading = readings.get(socket)
  if (!reading) throw new Error('a connection that was not made here cannot be diverted')
  reading.take = take
  reading.own = Buffer.allocUnsafeSlow(bytes)
}

/** Writes what it is given into another stream, from where it lies: nothing more is read before it is out. */
export function pourInto (to: Writable, from: Socket): Take {
  let isHeld = false
  const onOut = () => {
    if (!isHeld || to.writableLength > 0) return
    isHeld = false
    from.resume()
  }
  return chunk => {
    to.write(chunk, onOut)
    isHeld = to.writableLength > 0
    return !isHeld
  }
}
