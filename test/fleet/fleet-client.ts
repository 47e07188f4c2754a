/**
 * A client of a fleet inside its network.
 *   fleet-client.ts submit TOKEN_FILE GATEWAYS < tasks.ndjson    queues each task, asked again until a gateway has answered; some are cancelled
 *   fleet-client.ts audit REDIS_URL                              all tasks as Redis has them, a line each
 * A line of tasks.ndjson: `{ key, body, cancelAfterMs? }`; of the answer: `{ key, id }`.
 */
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { readFileSync } from 'node:fs'
import { fetch } from 'undici'
import { openFleetQueue } from '../../src/services/fleet-queue/fleet-queue.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'

export interface Order {
  key: string
  body: Record<string, unknown>
  cancelAfterMs?: number
}

const callTimeoutMs = 5000
const atOnce = 16

async function submit (tokenFile: string, gateways: readonly string[]): Promise<void> {
  const orders: Order[] = []
  for await (const line of createInterface({ input: process.stdin })) orders.push(JSON.parse(line) as Order)
  const token = readFileSync(tokenFile, 'utf8').trim()
  let turn = 0
  const ask = async (path: string, key: string, body: unknown): Promise<{ id?: string }> => {
    for (;;) {
      const gateway = gateways[turn++ % gateways.length]
      try {
        const response = await fetch(`${gateway}${path}`, {
          method: 'POST',
          headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', 'idempotency-key': key },
          body: JSON.stringify(body),
          signal: AbortSignal.timeout(callTimeoutMs),
        })
        const answer = await response.json() as { id?: string, code?: string }
        if (response.ok) return answer
        // Whoever is killed with a request under way leaves it so for a while.
        if (response.status < 500 && response.status !== 429 && answer.code !== 'idempotency_in_progress') throw new Refused(`${response.status} ${JSON.stringify(answer)}`)
      } catch (error) {
        if (error instanceof Refused) throw error
      }
      await delay(50 + Math.random() * 200)
    }
  }
  const work = async () => {
    for (let order = orders.shift(); order; order = orders.shift()) {
      const { key, body, cancelAfterMs } = order
      const { id } = await ask('/v1/tasks', key, body)
      process.stdout.write(`${JSON.stringify({ key, id })}\n`)
      if (cancelAfterMs === undefined) continue
      cancels.push(delay(cancelAfterMs).then(async () => { await ask(`/v1/tasks/${id}/cancel`, `${key}-cancel`, {}) }))
    }
  }
  const cancels: Array<Promise<void>> = []
  await Promise.all(Array.from({ length: atOnce }, work))
  await Promise.all(cancels)
}

class Refused extends Error {}

async function audit (url: string): Promise<void> {
  const redis = await openRedis({ url, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' })
  const { table, close } = openFleetQueue({ redis, fairLabel: 'tenant', labelLimits: [] })
  for (let cursor: string | undefined; ;) {
    const { records, nextCursor } = await table.list({ limit: 100, ...cursor !== undefined && { cursor } })
    for (const record of records) process.stdout.write(`${JSON.stringify(record)}\n`)
    if (nextCursor === undefined) break
    cursor = nextCursor
  }
  await close()
  await redis.close()
}

const [command, first = '', second = ''] = process.argv.slice(2)
if (command === 'submit') await submit(first, second.split(','))
else if (command === 'audit') await audit(first)
