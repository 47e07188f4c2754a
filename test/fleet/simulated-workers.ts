/**
 * Many workers in one process.
 *   simulated-workers.ts JSON    a WorkersTask
 * Writes lines of JSON, each a WorkersNews; ends when its standard input does, with its figures as the last.
 */
import pino from 'pino'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import { SimulatedWorker, WorkerFigures, type SimulatedWorkerOptions } from './simulated-worker.ts'

export interface WorkersTask extends Pick<SimulatedWorkerOptions, 'pool' | 'slots' | 'taskMs' | 'leaseMs' | 'gateway'> {
  names: string[]
  redisUrl: string
}

export type WorkersNews = { kind: 'ready' } | { kind: 'settled', count: number } | ({ kind: 'figures' } & Omit<WorkerFigures, 'kind'>)

const lookEveryMs = 20

const { names, redisUrl, ...common } = JSON.parse(process.argv[2] ?? '') as WorkersTask
const redis = await openRedis({ url: redisUrl, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' })
const figures = new WorkerFigures()
const logger = pino({ level: 'error', base: null }, pino.destination(2))
const workers = names.map(hostId => new SimulatedWorker({ ...common, hostId, redis, figures, logger }))
const tell = (news: WorkersNews) => { process.stdout.write(`${JSON.stringify(news)}\n`) }
await Promise.all(workers.map(worker => worker.start()))
let told = 0
let isReady = false
const timer = setInterval(() => {
  if (!isReady && workers.every(({ isMember }) => isMember)) {
    isReady = true
    tell({ kind: 'ready' })
  }
  const { length: count } = figures.deliveries
  if (count !== told) tell({ kind: 'settled', count })
  told = count
}, lookEveryMs)
process.stdin.resume().on('end', () => { void end() })

async function end (): Promise<void> {
  clearInterval(timer)
  await Promise.all(workers.map(worker => worker.close()))
  await redis.close()
  tell({ kind: 'figures', ...figures })
}
