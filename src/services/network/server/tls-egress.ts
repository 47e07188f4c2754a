/** Carries TLS connections of sandboxes to the servers that they name, without looking further than the name. */
import type { Socket } from 'node:net'
import type { EgressClient } from './egress-client.ts'
import { EgressRefusal, type EgressTarget } from './egress-route.ts'
import { join } from './socket-pair.ts'
import { ClientHelloReader } from './tls-client-hello.ts'

export interface TlsEgressOptions {
  /** How long a client has for its ClientHello. */
  helloTimeoutMs: number
  connectTimeoutMs: number
  port: number
}

/** What a client sent first, all of it, and whether it can be judged. */
interface Opening {
  bytes: Buffer
  name?: string
  isReadable: boolean
}

/** Takes a connection over until it has ended. Whatever is refused or fails is reset. */
export async function carryTls (client: EgressClient, options: TlsEgressOptions): Promise<void> {
  const opening = await readOpening(client.socket, options.helloTimeoutMs)
  if (opening === undefined) return client.cut()
  const { original } = client
  const { bytes, name, isReadable } = opening
  const target: EgressTarget = { kind: 'tls', port: original?.port ?? options.port, ...name !== undefined && { name }, ...original !== undefined && { original } }
  const policy = client.policy()
  if (policy === undefined) return client.cut()
  if (!isReadable) {
    client.record(target, { action: 'denied', reason: 'no_name' })
    return client.cut()
  }
  const ruling = client.router.rule(policy, target)
  if (ruling.by === undefined) {
    client.record(target, ruling)
    return client.cut()
  }
  const use = client.begin(target)
  let address = original?.address
  try {
    const route = await client.router.route(target, ruling.by, client.policy)
    if (route === undefined || client.socket.destroyed) return client.cut()
    address = route.addresses[0]
    const { socket: upstream, connected } = client.dial({ ...route, timeoutMs: options.connectTimeoutMs, receiver: client.socket })
    use.upstream = upstream
    address = use.address = await connected
    if (!client.mayGoOn(use)) {
      client.record(target, { action: 'denied', reason: 'no_rule' }, address)
      return client.cut()
    }
    client.record(target, ruling, address)
    upstream.write(bytes)
    join(client.socket, upstream, { hasReceiver: true })
  } catch (error) {
    if (error instanceof EgressRefusal) client.record(target, error.decision, error.address)
    // One that was cut meanwhile, by a change of the policy or by the client, was not let through.
    else if (!client.socket.destroyed) client.record(target, ruling, address)
    client.cut()
  }
}

/** Reads until the ClientHello is complete, or it is clear that none will come; undefined when the client left or sent nothing. */
async function readOpening (socket: Socket, timeoutMs: number): Promise<Opening | undefined> {
  const reader = new ClientHelloReader()
  const chunks: Buffer[] = []
  return await new Promise(resolve => {
    const timer = setTimeout(() => settle({ isReadable: false }), timeoutMs)
    const settle = (found: { name?: string, isReadable: boolean }): void => {
      clearTimeout(timer)
      socket.pause()
      socket.off('data', take).off('end', leave).off('close', leave)
      resolve(chunks.length === 0 ? undefined : { bytes: Buffer.concat(chunks), ...found })
    }
    const take = (chunk: Buffer): void => {
      chunks.push(chunk)
      const hello = reader.push(chunk)
      if (hello.state === 'complete') settle({ isReadable: true, ...hello.serverName !== undefined && { name: hello.serverName } })
      // Another protocol names no one either: only its address can allow it.
      else if (hello.state === 'not_tls') settle({ isReadable: true })
      else if (hello.state === 'malformed') settle({ isReadable: false })
    }
    const leave = (): void => settle({ isReadable: false })
    socket.on('data', take).once('end', leave).once('close', leave)
  })
}
