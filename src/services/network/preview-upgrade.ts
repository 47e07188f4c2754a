import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { pairs, type RawHeaders } from './preview-headers.ts'
import { divert, pourInto } from './program-socket.ts'

export interface UpgradedPair {
  client: Duplex
  /** What the client sent behind its request. */
  clientHead: Buffer
  /** As made by connectToProgram. */
  program: Socket
  programHead: Buffer
  /** Owns the client's socket, and lets go of it. */
  response: ServerResponse
  /** The program's 101. */
  answer: IncomingMessage
  /** Of the answer, as they are passed on. */
  headers: RawHeaders
}

const keepAliveMs = 30_000
/** Many stay open for hours with little to say. */
const readBytes = 32 * 1024
/** A WebSocket of which one side has ended has nothing more to say; other protocols go on in one direction. */
const lingerMs = 1000

/** Passes on the 101, then bytes in both directions until both have ended, or one breaks. */
export function joinUpgraded (pair: UpgradedPair): Promise<void> {
  const { client, program, response, answer } = pair
  response.detachSocket(client as Socket)
  for (const socket of [client, program] as Socket[]) {
    socket.setTimeout?.(0)
    socket.setNoDelay?.(true)
    socket.setKeepAlive?.(true, keepAliveMs)
  }
  const lines = ['HTTP/1.1 101 Switching Protocols', 'Connection: Upgrade', `Upgrade: ${answer.headers.upgrade ?? ''}`, ...[...pairs(pair.headers)].map(([name, value]) => `${name}: ${value}`)]
  client.write(`${lines.join('\r\n')}\r\n\r\n`, 'latin1')
  // It lies where the next read will be.
  if (pair.programHead.length > 0) client.write(Buffer.from(pair.programHead))
  if (pair.clientHead.length > 0) program.write(pair.clientHead)
  const closed = [[client, program], [program, client]].map(([socket, other]) => new Promise<void>(resolve => {
    // The other end is told by 'close' that this one broke.
    socket!.on('error', () => {})
    socket!.once('close', (hadError: boolean) => {
      // What arrived before a proper end is still on its way.
      if (hadError) other!.destroy()
      else (other as Socket).destroySoon()
      resolve()
    })
  }))
  if (answer.headers.upgrade?.toLowerCase() === 'websocket') {
    const end = () => setTimeout(() => {
      client.destroy()
      program.destroy()
    }, lingerMs).unref()
    for (const socket of [client, program]) socket.once('end', end)
  }
  client.pipe(program)
  divert(program, pourInto(client, program), readBytes)
  program.once('end', () => client.end()).resume()
  return Promise.all(closed).then(() => undefined)
}
