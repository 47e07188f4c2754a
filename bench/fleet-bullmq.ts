/** A process of BullMQ's worker, whose jobs are nothing: `fleet-bullmq.ts JSON`, a BullMqTask, as a child with a channel. Tells how many have completed. */
import { Worker } from 'bullmq'

export interface BullMqTask {
  port: number
  concurrency: number
}

export const bullMqName = 'bench'
const tellEveryMs = 20

if (process.send !== undefined && process.argv[2] !== undefined) await work(JSON.parse(process.argv[2]) as BullMqTask)

async function work ({ port, concurrency }: BullMqTask): Promise<void> {
  const worker = new Worker(bullMqName, async () => null, { connection: { host: '127.0.0.1', port, maxRetriesPerRequest: null }, concurrency })
  let completed = 0
  let told = 0
  worker.on('completed', () => { completed++ })
  await worker.waitUntilReady()
  process.send?.(0)
  setInterval(() => {
    if (completed !== told) process.send?.(completed)
    told = completed
  }, tellEveryMs)
  process.once('disconnect', () => process.exit(0))
}
