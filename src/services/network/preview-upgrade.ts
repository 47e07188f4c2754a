import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { pairs, type RawHeaders } from './preview-headers.ts'

export interface UpgradedPair {
  client: Duplex
  /** What the client sent behind its request. */
  clientHead: Buffer
  program: Duplex
  programHead: Buffer
  /** Owns the client's socket, and lets go of it. */
  response: ServerResponse
  /** The program's 101. */
  answer: IncomingMessage
  /** Of the answer, as they are passed on. */
  headers: RawHeaders
}

const keepAliveMs = 30_000
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
  if (pair.programHead.length > 0) client.write(pair.programHead)
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
  program.pipe(client)
  return Promise.all(closed).then(() => undefined)
}
