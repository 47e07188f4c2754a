import { createHash } from 'node:crypto'
import type { ClaimId } from './task-queue.ts'

const digits = '0123456789abcdefghijklmnopqrstuv'
const length = 20

/**
 * The id under which a host queues a delivery of a fleet's task for itself: the same for everybody who knows both parts, so that a
 * delivery is queued once however often it is taken, and its log is found without asking. Twenty digits of base 32 are 100 bits of SHA-256.
 */
export function deliveryId ({ taskId, fence }: ClaimId): string {
  const hash = createHash('sha256').update(`${taskId}#${fence}`).digest()
  return `tsk_${Array.from({ length }, (_, index) => digits[fiveBits(hash, index * 5)]).join('')}`
}

function fiveBits (bytes: Buffer, bit: number): number {
  return bytes.readUInt16BE(bit >> 3) >> (11 - (bit & 7)) & 31
}
