/** A worker as gateways keep it. */
import type { Room } from '../services/tasks/task-queue.ts'

export interface WorkerRecord {
  id: string
  hostname: string
  pool: string
  version: string
  status: 'available' | 'draining'
  labels: Record<string, string>
  capacity: Room
  free: Room
  sandboxes: number
  tasks: number
  /** Where the gateway reaches its API; empty: nowhere. */
  apiUrl: string
  /** PEM of the authorities of its certificate; empty: the usual ones. */
  apiCa: string
  /** Milliseconds since the epoch. */
  registeredAtMs: number
  lastSeenAtMs: number
  /** Nothing was heard of it for longer than a lease; derived, not kept. */
  isLost: boolean
}

/** How the gateway talks to the API of a worker. */
export interface WorkerAccess {
  worker: WorkerRecord
  /** Without a slash at its end. */
  url: string
  token: string
  ca?: string
}

/** What the parts of a gateway need of its workers. */
export interface Workers {
  /** @throws BerthError not_found `worker_not_found`. */
  get: (id: string) => Promise<WorkerRecord>
  list: (filter?: { pool?: string, pools?: readonly string[] }) => Promise<WorkerRecord[]>
  /** @throws BerthError not_found `worker_not_found`; unavailable `worker_unreachable` where it gave no address. */
  access: (id: string) => Promise<WorkerAccess>
  /** Counts on what was just placed on it, until its next heartbeat. */
  reserve: (id: string, room: Room) => Promise<void>
  /** Asks a worker to drain, or to take tasks again; it hears of it with its next heartbeat. */
  wish: (id: string, wish: 'drain' | 'undrain') => Promise<void>
  /** Forgets a worker that is lost or has left. @throws BerthError conflict `invalid_state` while it is heard of. */
  remove: (id: string) => Promise<void>
}

/** Who asks a gateway something. */
export interface FleetPrincipal {
  id: string
  scope: 'admin' | 'client' | 'read' | 'worker'
  /** The pools that it is for; all without it. */
  pools?: readonly string[]
}
