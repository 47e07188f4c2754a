/** Which worker a sandbox is made on: a pure decision. */
import type { Room } from '../../services/tasks/task-queue.ts'
import type { WorkerRecord } from '../worker-record.ts'

export interface PlacementWish {
  room: Room
  /** Only workers that have all of these. */
  hostLabels?: Readonly<Record<string, string>> | undefined
  /** Workers that have refused already. */
  refused?: ReadonlySet<string>
}

/** A worker, or what is missing: any that takes sandboxes, one with these labels, or one with room. */
export type Placement =
  | { worker: WorkerRecord }
  | { missing: 'workers' | 'labels' }
  | { missing: 'room', largest: Room }

/** Up to so many, all are looked at: the fullest that has room is taken, which leaves larger gaps to what comes after. */
const fewWorkers = 4

/**
 * Of many, the freer one of two chosen at random: nearly as even as the freest of all, and gateways that look at the same figures do
 * not all choose the same one (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
 *
 * @param workers Of one pool; `free` without what was placed on them since they said it.
 * @param random From 0 to 1, as Math.random.
 */
export function placeSandbox (workers: readonly WorkerRecord[], { room, hostLabels = {}, refused = new Set() }: PlacementWish, random: () => number = Math.random): Placement {
  const usable = workers.filter(({ status, isLost, apiUrl }) => status === 'available' && !isLost && apiUrl !== '')
  if (usable.length === 0) return { missing: 'workers' }
  const labelled = usable.filter(({ labels }) => Object.entries(hostLabels).every(([name, value]) => Object.hasOwn(labels, name) && labels[name] === value))
  if (labelled.length === 0) return { missing: 'labels' }
  const fitting = labelled.filter(({ id, free }) => !refused.has(id) && free.cpuMillis >= room.cpuMillis && free.memoryBytes >= room.memoryBytes)
  if (fitting.length === 0) return { missing: 'room', largest: largestFree(labelled) }
  if (fitting.length <= fewWorkers) return { worker: fitting.reduce((best, other) => shareLeft(other, room) < shareLeft(best, room) ? other : best) }
  const first = Math.floor(random() * fitting.length)
  // One of the others.
  const second = (first + 1 + Math.floor(random() * (fitting.length - 1))) % fitting.length
  const [one, two] = [fitting[first]!, fitting[second]!]
  return { worker: shareLeft(two, room) > shareLeft(one, room) ? two : one }
}

/** What would be left of the scarcer of both, from 0 to 1. */
function shareLeft ({ free, capacity }: WorkerRecord, room: Room): number {
  return Math.min(
    (free.cpuMillis - room.cpuMillis) / Math.max(1, capacity.cpuMillis),
    (free.memoryBytes - room.memoryBytes) / Math.max(1, capacity.memoryBytes))
}

/** Of one worker: the most that could be asked for, by memory, which is never promised twice. */
function largestFree (workers: readonly WorkerRecord[]): Room {
  const { free } = workers.reduce((best, other) => other.free.memoryBytes > best.free.memoryBytes ||
    (other.free.memoryBytes === best.free.memoryBytes && other.free.cpuMillis > best.free.cpuMillis)
    ? other
    : best)
  return { cpuMillis: free.cpuMillis, memoryBytes: free.memoryBytes }
}
