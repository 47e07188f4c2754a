/** A worker as the fields of a hash. */
import type { Room } from '../services/tasks/task-queue.ts'
import type { WorkerRecord } from './worker-record.ts'

/** What a worker says of itself when it registers. */
export interface WorkerFacts extends Pick<WorkerRecord, 'hostname' | 'pool' | 'version' | 'status' | 'labels' | 'capacity' | 'free' | 'apiUrl' | 'apiCa'> {
  /** Empty: it gives none. */
  apiToken: string
}

/** In the order in which `readWorker` takes their values. */
export const recordFields = [
  'pool', 'hostname', 'version', 'status', 'labels', 'cpu', 'memory', 'freeCpu', 'freeMemory', 'reservedCpu', 'reservedMemory',
  'sandboxes', 'tasks', 'apiUrl', 'apiCa', 'registeredAt', 'lastSeenAt',
] as const

/** Fields and values in turn. The pool is not among them. */
export function fieldsOfWorker ({ hostname, version, status, labels, capacity, free, apiUrl, apiCa, apiToken }: WorkerFacts): Array<string | number> {
  return Object.entries({
    hostname,
    version,
    status,
    labels: JSON.stringify(labels),
    cpu: capacity.cpuMillis,
    memory: capacity.memoryBytes,
    freeCpu: free.cpuMillis,
    freeMemory: free.memoryBytes,
    apiUrl,
    apiCa,
    apiToken,
  }).flat()
}

/** Undefined: the fields are those of no worker. One that was last seen before `lostBeforeMs` is lost. */
export function readWorker (id: string, values: ReadonlyArray<string | null>, lostBeforeMs: number): WorkerRecord | undefined {
  const field = (name: typeof recordFields[number]): string => values[recordFields.indexOf(name)] ?? ''
  const number = (name: typeof recordFields[number]): number => Number(field(name))
  if (field('pool') === '') return undefined
  const free: Room = { cpuMillis: number('freeCpu') - number('reservedCpu'), memoryBytes: number('freeMemory') - number('reservedMemory') }
  return {
    id,
    hostname: field('hostname'),
    pool: field('pool'),
    version: field('version'),
    status: field('status') === 'draining' ? 'draining' : 'available',
    labels: JSON.parse(field('labels') || '{}') as Record<string, string>,
    capacity: { cpuMillis: number('cpu'), memoryBytes: number('memory') },
    free: { cpuMillis: Math.max(0, free.cpuMillis), memoryBytes: Math.max(0, free.memoryBytes) },
    sandboxes: number('sandboxes'),
    tasks: number('tasks'),
    apiUrl: field('apiUrl'),
    apiCa: field('apiCa'),
    registeredAtMs: number('registeredAt'),
    lastSeenAtMs: number('lastSeenAt'),
    isLost: number('lastSeenAt') < lostBeforeMs,
  }
}
