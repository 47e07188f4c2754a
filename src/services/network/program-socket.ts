/**
 * Connections to programs in sandboxes, for http.Agent. What comes is read into memory that is used again: a fresh 64 KiB for each read,
 * which is what sockets usually do, costs more than all else that is done with a large answer.
 */
import { connect, type Socket, type TcpNetConnectOpts } from 'node:net'

/** Is given what was read, good until it returns, or, after it said false, until the socket is resumed. False stops the reading. */
export type Take = (chunk: Buffer) => boolean

const commonBytes = 64 * 1024
/** What a sandbox sends at once grows with what is taken at once: more made nothing faster. */
const ownBytes = 256 * 1024

/** For all that is copied as soon as it was read. */
const common = Buffer.allocUnsafeSlow(commonBytes)

interface Reading {
  take?: Take
  /** Made when it is first needed. */
  own?: Buffer
}

const readings = new WeakMap<Socket, Reading>()

export function connectToProgram (options: TcpNetConnectOpts): Socket {
  const reading: Reading = {}
  const socket = connect({
    ...options,
    onread: {
      buffer: () => reading.take ? reading.own ??= Buffer.allocUnsafeSlow(ownBytes) : common,
      callback (bytes, buffer) {
        const chunk = (buffer as Buffer).subarray(0, bytes)
        if (reading.take) return reading.take(chunk)
        // Whoever listens may keep it. Nobody does on a connection that waits for its next request: what comes there answers nothing.
        if (!socket.emit('data', Buffer.from(chunk))) socket.destroy()
        return true
      },
    },
  })
  readings.set(socket, reading)
  return socket
}

/**
 * Leads all that comes from here on past those who listen for `data`, for as long as the connection lives. Ends and errors are told as ever.
 * The connection must be one of connectToProgram.
 */
export function divert (socket: Socket, take: Take): void {
  const reading = readings.get(socket)
  if (!reading) throw new Error('a connection that was not made here cannot be diverted')
  reading.take = take
}
