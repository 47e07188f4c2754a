/** Requests of workers as gRPC gives them, and what they may hold. Every field is there: what was not sent is empty or 0. */
import { BerthError } from '../errors.ts'
import type { Room } from '../services/tasks/task-queue.ts'
import type { WorkerFacts } from './worker-fields.ts'

export interface WireRoom { cpu: number, memory: number }

export interface RegisterRequest {
  hostname: string
  poolName: string
  cpu: number
  memory: number
  version: string
  hostId: string
  apiUrl: string
  apiToken: string
  labels: Record<string, string>
  free: WireRoom | null
  apiCa: string
  status: string
}

export interface HeartbeatRequest { workerId: string, free: WireRoom | null, sandboxes: number, tasks: number }

const idPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/
const poolPattern = /^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$/
const labelPattern = /^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/
const printable = /^[\x20-\x7e]*$/
const maxLabels = 64
const maxCaLength = 64 * 1024

/** What a worker says of itself. @throws BerthError invalid_argument that names the field. */
export function readRegistration (request: RegisterRequest): { hostId: string, facts: WorkerFacts } {
  const { hostname, poolName, cpu, memory, version, hostId, apiUrl, apiToken, labels, free, apiCa, status } = request
  if (hostId !== '') readId(hostId, 'host_id')
  readText(hostname, 'hostname', 253)
  readText(version, 'version', 64)
  readText(apiToken, 'api_token', 512)
  if (poolName !== '' && !poolPattern.test(poolName)) throw invalid('pool_name must be at most 63 of a-z, 0-9 and . _ -, and begin and end with a letter or digit')
  if (apiCa.length > maxCaLength || (apiCa !== '' && !apiCa.includes('-----BEGIN CERTIFICATE-----'))) throw invalid('api_ca must be certificates in PEM')
  const capacity = readRoom({ cpu, memory }, 'cpu and memory')
  return {
    hostId,
    facts: {
      hostname,
      pool: poolName || 'default',
      version,
      status: status === '' ? 'available' : readStatus(status),
      labels: readLabels(labels),
      capacity,
      // Who does not say has told of no use either.
      free: free === null ? capacity : readRoom(free, 'free'),
      apiUrl: readApiUrl(apiUrl),
      apiCa,
      apiToken,
    },
  }
}

export function readId (id: string, field: string): string {
  if (!idPattern.test(id)) throw invalid(`${field} must be 1 to 128 of letters, digits and . _ -, beginning with a letter or digit`)
  return id
}

export function readStatus (status: string): 'available' | 'draining' {
  if (status !== 'available' && status !== 'draining') throw invalid('status must be available or draining')
  return status
}

export function readRoom ({ cpu, memory }: WireRoom, field: string): Room {
  if (!isCount(cpu) || !isCount(memory)) throw invalid(`${field} must be whole numbers from 0: thousandths of a core, and bytes`)
  return { cpuMillis: cpu, memoryBytes: memory }
}

export function readCount (value: number, field: string): number {
  if (!isCount(value)) throw invalid(`${field} must be a whole number from 0`)
  return value
}

function readApiUrl (text: string): string {
  if (text === '') return ''
  const url = text.length <= 2048 && URL.canParse(text) ? new URL(text) : undefined
  // A lone ? or # is in no part of what is parsed, and would swallow the path that is put behind.
  const isPlain = url && /^https?:$/.test(url.protocol) && url.username === '' && url.password === '' && url.pathname === '/' && !/[?#@\\]/.test(text)
  if (!isPlain) throw invalid('api_url must be http(s)://HOST:PORT, without credentials, a path or a query')
  return url.origin
}

function readLabels (labels: Record<string, string>): Record<string, string> {
  const entries = Object.entries(labels)
  if (entries.length > maxLabels) throw invalid(`labels has more than ${maxLabels} entries`)
  for (const [name, value] of entries) {
    if (!labelPattern.test(name) || value.length > 63 || !printable.test(value)) throw invalid('labels must be named as labels are, with values of at most 63 printable characters')
  }
  return Object.fromEntries(entries)
}

function readText (text: string, field: string, maxLength: number): void {
  if (text.length > maxLength || !printable.test(text)) throw invalid(`${field} must be at most ${maxLength} printable ASCII characters`)
}

function isCount (value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0
}

function invalid (message: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_request', message)
}
