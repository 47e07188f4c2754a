/** A real cluster of three masters. */
import { Redis } from 'ioredis'
import { pollUntil } from '../../src/lib/poll.ts'
import { freePort } from './free-port.ts'
import { RedisServer } from './redis-server.ts'
import type { Teardown } from './test-daemon.ts'

export interface ClusterWorld {
  url: string
  nodes: RedisServer[]
  /** Asks one node something. */
  ask: (node: RedisServer, ...command: [string, ...(string | number)[]]) => Promise<unknown>
  /** Moves a slot, empty or not, to another node. */
  moveSlot: (slot: number, from: RedisServer, to: RedisServer) => Promise<void>
}

const slots = 16_384
const readyWithinMs = 30_000

export async function startCluster (t: Teardown): Promise<ClusterWorld> {
  const nodes: RedisServer[] = []
  while (nodes.length < 3) {
    // Nodes talk among themselves on a port of their own.
    const args = ['--cluster-enabled', 'yes', '--cluster-node-timeout', '2000', '--cluster-port', String(await freePort()), '--cluster-require-full-coverage', 'no']
    nodes.push(await RedisServer.start(t, { args }))
  }
  const ask: ClusterWorld['ask'] = async (node, name, ...args) => {
    const client = new Redis({ port: node.port, lazyConnect: true, retryStrategy: () => null })
    client.on('error', () => {})
    try {
      await client.connect()
      return await client.call(name, ...args)
    } finally {
      client.disconnect()
    }
  }
  const share = Math.ceil(slots / nodes.length)
  for (const [index, node] of nodes.entries()) {
    await ask(node, 'CLUSTER', 'SET-CONFIG-EPOCH', index + 1)
    await ask(node, 'CLUSTER', 'ADDSLOTSRANGE', index * share, Math.min(slots, (index + 1) * share) - 1)
    const busPort = Number(((await ask(nodes[0]!, 'CONFIG', 'GET', 'cluster-port')) as string[])[1])
    if (index > 0) await ask(node, 'CLUSTER', 'MEET', '127.0.0.1', nodes[0]!.port, busPort)
  }
  const isWhole = async (): Promise<boolean> => {
    const infos = await Promise.all(nodes.map(node => ask(node, 'CLUSTER', 'INFO')))
    return infos.every(info => String(info).includes('cluster_state:ok') && String(info).includes('cluster_known_nodes:3') && String(info).includes(`cluster_slots_ok:${slots}`))
  }
  if (!await pollUntil(isWhole, readyWithinMs)) throw new Error('the cluster did not come together')
  return {
    url: `redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    nodes,
    ask,
    moveSlot: async (slot, from, to) => {
      const [fromId, toId] = [String(await ask(from, 'CLUSTER', 'MYID')), String(await ask(to, 'CLUSTER', 'MYID'))]
      await ask(to, 'CLUSTER', 'SETSLOT', slot, 'IMPORTING', fromId)
      await ask(from, 'CLUSTER', 'SETSLOT', slot, 'MIGRATING', toId)
      for (const key of await ask(from, 'CLUSTER', 'GETKEYSINSLOT', slot, 1000) as string[]) await ask(from, 'MIGRATE', '127.0.0.1', to.port, key, 0, 5000)
      for (const node of [to, from]) await ask(node, 'CLUSTER', 'SETSLOT', slot, 'NODE', toId)
    },
  }
}
