/** A published UDP port: each client has a socket of its own towards the sandbox, so that answers find back. */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { onEveryFamily, type Relay, type RelayOptions } from './relay-options.ts'

const idleMs = 60_000
const sweepMs = 10_000
const maximumClients = 1_024
// Until the socket is connected, within the same tick or the next.
const maximumEarly = 16

interface Peer {
  socket: Socket
  /** What came before it was connected. */
  early: Buffer[] | undefined
  usedAtMs: number
}

export async function openUdpRelay ({ publishAddress, hostPort, target, logger }: RelayOptions): Promise<Relay> {
  /** Least recently used first. */
  const peers = new Map<string, Peer>()
  let outer: Socket | undefined
  await onEveryFamily(publishAddress, async host => { outer = await bind(host, hostPort) })
  if (outer === undefined) throw new Error('nothing is bound')
  const front = outer

  const forget = (key: string): void => {
    const peer = peers.get(key)
    if (peer === undefined) return
    peers.delete(key)
    peer.socket.close()
  }
  const meet = (key: string, { address, port }: RemoteInfo): Peer => {
    if (peers.size >= maximumClients) forget(peers.keys().next().value ?? '')
    // Connected: the kernel lets only datagrams of the sandbox in, and tells of its refusals.
    const socket = createSocket('udp4')
    const peer: Peer = { socket, early: [], usedAtMs: 0 }
    peers.set(key, peer)
    socket.on('message', message => {
      touch(key, peer)
      front.send(message, port, address, () => {})
    })
    socket.on('error', () => { if (peers.get(key) === peer) forget(key) })
    socket.connect(target.port, target.address, () => {
      const early = peer.early ?? []
      peer.early = undefined
      if (peers.get(key) === peer) for (const message of early) socket.send(message, () => {})
    })
    return peer
  }
  const touch = (key: string, peer: Peer): void => {
    if (peers.get(key) !== peer) return
    peer.usedAtMs = performance.now()
    peers.delete(key)
    peers.set(key, peer)
  }
  front.on('message', (message, from) => {
    const key = `${from.address} ${from.port}`
    const peer = peers.get(key) ?? meet(key, from)
    touch(key, peer)
    if (peer.early === undefined) peer.socket.send(message, () => {})
    else if (peer.early.length < maximumEarly) peer.early.push(message)
  })
  front.on('error', error => logger.warn({ err: error, hostPort }, 'datagrams cannot be taken'))
  const sweep = setInterval(() => {
    const oldestMs = performance.now() - idleMs
    for (const [key, { usedAtMs }] of peers) {
      if (usedAtMs > oldestMs) break
      forget(key)
    }
  }, sweepMs).unref()
  return {
    async close () {
      clearInterval(sweep)
      for (const key of [...peers.keys()]) forget(key)
      await new Promise<void>(resolve => front.close(resolve))
    },
  }
}

async function bind (host: string, port: number): Promise<Socket> {
  const socket = createSocket({ type: host.includes(':') ? 'udp6' : 'udp4', ipv6Only: false })
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject).bind({ address: host, port, exclusive: true }, () => {
      socket.off('error', reject)
      resolve()
    })
  }).catch((error: unknown) => {
    socket.close()
    throw error
  })
  return socket
}
